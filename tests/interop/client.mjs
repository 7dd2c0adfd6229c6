// Runs published Prometheus clients, as a service that embeds one does.
//
//   node client.mjs '<json>'
//
// The argument is one object:
//   bootstrap  ['host:port'], the DHT to join
//   host       the address to bind
//   scraper    public key of the bridge
//   secret     shared secret of the bridge
//   clients    a list of
//     generation  1 (dht-prom-client 1.1.1) or 2 (2.1.0)
//     alias, service, hostname
//     seed        optional, 64 hex: the key pair that serves the metrics; random without it
//     quiet       optional, true: no metrics-request events, for many scrapes
//     metrics     { kind: 'file', path } answers the bytes of a file
//                 { kind: 'process' } answers prom-client's default metrics of this process
//                 { kind: 'failing' } throws
// Keys and secrets are hex or z-base-32.
//
// Prints {"event":"starting"} once the packages are loaded, then one JSON line per event (listening,
// registered, register-failed, metrics-request, firewall-block), each with the alias it belongs to,
// and runs until stdin closes.
import { readFileSync } from 'node:fs'
import HyperDHT from 'hyperdht'
import Generation1 from 'dht-prom-client-v1'
import Generation2 from 'dht-prom-client-v2'
import promClient from 'prom-client'
import { endWithStdin, report } from './lifeline.mjs'

const GENERATIONS = { 1: Generation1, 2: Generation2 }

endWithStdin()
const settings = JSON.parse(process.argv[2])
report('starting')
const running = settings.clients.map(start)
await Promise.all(running)

async function start ({ generation, alias, service, hostname, seed, quiet, metrics }) {
  const Client = GENERATIONS[generation]
  const dht = new HyperDHT({ bootstrap: settings.bootstrap, host: settings.host })
  const keyPair = HyperDHT.keyPair(seed && Buffer.from(seed, 'hex'))
  const client = new Client(
    dht, collector(metrics), settings.scraper, alias, settings.secret, service, { hostname, keyPair }
  )
  const tell = (event, fields) => report(event, { alias, ...fields })
  client.on('register-alias-success', ({ updated }) => tell('registered', { updated }))
  client.on('register-alias-error', (error) => tell('register-failed', { error: describe(error) }))
  if (!quiet) client.on('metrics-request', () => tell('metrics-request'))
  client.on('firewall-block', () => tell('firewall-block'))
  // A peer that goes away is an event of every day for a client, and none of ours.
  client.on('connection-error', () => {})
  await client.ready()
  tell('listening', { publicKey: keyPair.publicKey.toString('hex') })
}

function collector (metrics) {
  switch (metrics.kind) {
    case 'file': {
      const text = readFileSync(metrics.path, 'utf8')
      return () => text
    }
    case 'process':
      if (!promClient.register.getSingleMetric('process_start_time_seconds')) {
        promClient.collectDefaultMetrics()
      }
      return promClient
    case 'failing':
      return () => { throw new Error('this collector always fails') }
    default:
      throw new Error(`unknown kind of metrics: ${metrics.kind}`)
  }
}

function describe (error) {
  return error.cause ? `${error.message}: ${describe(error.cause)}` : error.message
}

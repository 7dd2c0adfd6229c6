// A Node peer for the NAT lab, one process per host. `examples/echo.rs` is the same in Rust.
//
//   node nat-peer.mjs node HOST PORT [BOOTSTRAP]   a public DHT node, the first one without BOOTSTRAP;
//                                                  prints `ready HOST:PORT`
//   node nat-peer.mjs relay BOOTSTRAP SEED         a blind relay; prints `listening KEY`
//   node nat-peer.mjs serve BOOTSTRAP SEED [RELAYS]      echoes messages; prints `listening KEY`
//   node nat-peer.mjs hold BOOTSTRAP KEY [RELAYS]  connects once and has a message echoed five times a
//                                                  second; prints `joined`, `open MS`, `path HOST:PORT`
//                                                  for each place that packets go to, `echoed COUNT`,
//                                                  and `ended MS REASON` or `failed MS REASON`
//   node nat-peer.mjs dial BOOTSTRAP KEY DIALS [RELAYS]  dials so many times, one after another, and has a
//                                                  message echoed each time; prints `joined`, then for
//                                                  each dial `open MS` and `echoed MS`, or `failed MS
//                                                  REASON`; times count from the dial
//
// With OPEN in the environment, peers take it that they can be reached from everywhere, which they would
// find out after some time.
//
// BOOTSTRAP is HOST:PORT, several with commas; keys and seeds are 64 hexadecimal digits. RELAYS
// are the keys of relays to name to the other side, with commas between. Ends when its standard input
// does.
import DHT from 'hyperdht'
import relays from 'blind-relay'
import { once } from 'node:events'

const [role, ...args] = process.argv.slice(2)

process.stdin.resume()
process.stdin.on('end', () => process.exit())

await { node, relay, serve, dial, hold }[role]()

function options (bootstrap) {
  return { bootstrap: bootstrap.split(','), firewalled: !process.env.OPEN }
}

function through (relays) {
  return relays ? { relayThrough: relays.split(',').map((key) => Buffer.from(key, 'hex')) } : {}
}

async function relay () {
  const [bootstrap, seed] = args
  const dht = new DHT(options(bootstrap))
  const service = new relays.Server({ createStream: (options) => dht.createRawStream({ ...options, framed: true }) })
  const server = dht.createServer((socket) => {
    socket.on('error', () => {})
    service.accept(socket, { id: socket.remotePublicKey }).on('error', () => {})
  })
  const keyPair = DHT.keyPair(Buffer.from(seed, 'hex'))
  await server.listen(keyPair)
  console.log('listening', keyPair.publicKey.toString('hex'))
}

async function node () {
  const [host, port, bootstrap] = args
  const dht = bootstrap
    ? new DHT({ bootstrap: bootstrap.split(','), host, port: Number(port), ephemeral: false, firewalled: false })
    : DHT.bootstrapper(Number(port), host)
  await dht.fullyBootstrapped()
  console.log('ready', `${host}:${port}`)
}

async function serve () {
  const [bootstrap, seed, relays] = args
  const dht = new DHT(options(bootstrap))
  const server = dht.createServer(through(relays), (socket) => {
    socket.on('data', (data) => socket.write(data))
    socket.on('end', () => socket.end())
    socket.on('error', () => {})
  })
  const keyPair = DHT.keyPair(Buffer.from(seed, 'hex'))
  await server.listen(keyPair)
  console.log('listening', keyPair.publicKey.toString('hex'))
}

async function dial () {
  const [bootstrap, key, dials, relays] = args
  const dht = new DHT(options(bootstrap))
  await dht.fullyBootstrapped()
  console.log('joined')
  for (let n = 0; n < Number(dials); n++) await dialOnce(dht, Buffer.from(key, 'hex'), relays)
  await dht.destroy()
  process.exit()
}

async function hold () {
  const [bootstrap, key, relays] = args
  const dht = new DHT(options(bootstrap))
  await dht.fullyBootstrapped()
  console.log('joined')
  const began = performance.now()
  const socket = dht.connect(Buffer.from(key, 'hex'), through(relays))
  let opened = false
  let reason = 'end'
  socket.on('error', (error) => { reason = error.code })
  socket.on('close', () => console.log(opened ? 'ended' : 'failed', (performance.now() - began).toFixed(1), reason))
  await once(socket, 'open')
  opened = true
  console.log('open', (performance.now() - began).toFixed(1))
  let path
  for (let count = 1; !socket.destroyed; count++) {
    socket.write('a message to be echoed')
    await once(socket, 'data')
    console.log('echoed', count)
    const now = `${socket.rawStream.remoteHost}:${socket.rawStream.remotePort}`
    if (now !== path) console.log('path', path = now)
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

async function dialOnce (dht, key, relays) {
  const began = performance.now()
  const report = (...words) => console.log(words[0], (performance.now() - began).toFixed(1), ...words.slice(1))
  const socket = dht.connect(key, through(relays))
  const failed = new Promise((resolve) => socket.on('error', resolve))
  const closed = once(socket, 'close')
  const opened = async () => {
    await once(socket, 'open')
    report('open')
    socket.write('a message to be echoed')
    await once(socket, 'data')
    report('echoed')
  }
  const error = await Promise.race([failed, opened().catch(() => failed)])
  if (error) report('failed', error.code)
  else socket.end()
  await closed
}

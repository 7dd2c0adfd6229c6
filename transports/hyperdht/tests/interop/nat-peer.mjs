// A Node peer for the NAT lab, one process per host. `examples/echo.rs` is the same in Rust.
//
//   node nat-peer.mjs node HOST PORT [BOOTSTRAP]   a public DHT node, the first one without BOOTSTRAP;
//                                                  prints `ready HOST:PORT`
//   node nat-peer.mjs serve BOOTSTRAP SEED         echoes messages; prints `listening KEY`
//   node nat-peer.mjs dial BOOTSTRAP KEY DIALS     dials so many times, one after another, and has a
//                                                  message echoed each time; prints `joined`, then for
//                                                  each dial `open MS` and `echoed MS`, or `failed MS
//                                                  REASON`; times count from the dial
//
// BOOTSTRAP is HOST:PORT, several with commas; keys and seeds are 64 hexadecimal digits. Ends when
// its standard input does.
import DHT from 'hyperdht'
import { once } from 'node:events'

const [role, ...args] = process.argv.slice(2)

process.stdin.resume()
process.stdin.on('end', () => process.exit())

await { node, serve, dial }[role]()

async function node () {
  const [host, port, bootstrap] = args
  const dht = bootstrap
    ? new DHT({ bootstrap: bootstrap.split(','), host, port: Number(port), ephemeral: false, firewalled: false })
    : DHT.bootstrapper(Number(port), host)
  await dht.fullyBootstrapped()
  console.log('ready', `${host}:${port}`)
}

async function serve () {
  const [bootstrap, seed] = args
  const dht = new DHT({ bootstrap: bootstrap.split(',') })
  const server = dht.createServer((socket) => {
    socket.on('data', (data) => socket.write(data))
    socket.on('end', () => socket.end())
    socket.on('error', () => {})
  })
  const keyPair = DHT.keyPair(Buffer.from(seed, 'hex'))
  await server.listen(keyPair)
  console.log('listening', keyPair.publicKey.toString('hex'))
}

async function dial () {
  const [bootstrap, key, dials] = args
  const dht = new DHT({ bootstrap: bootstrap.split(',') })
  await dht.fullyBootstrapped()
  console.log('joined')
  for (let n = 0; n < Number(dials); n++) await dialOnce(dht, Buffer.from(key, 'hex'))
  await dht.destroy()
  process.exit()
}

async function dialOnce (dht, key) {
  const began = performance.now()
  const report = (...words) => console.log(words[0], (performance.now() - began).toFixed(1), ...words.slice(1))
  const socket = dht.connect(key)
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

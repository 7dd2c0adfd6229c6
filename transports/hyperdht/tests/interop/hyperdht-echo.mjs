// A Node peer for the interop test: serves or dials, and echoes messages over the secret stream.
//
//   node hyperdht-echo.mjs serve HOST:PORT,... SEED         prints `listening KEY`, echoes what it reads
//   node hyperdht-echo.mjs dial HOST:PORT,... KEY SIZE...   sends a message of each size and waits
//                                                           for its echo; prints `echoed SIZE MS`
//   node hyperdht-echo.mjs idle HOST:PORT,... KEY           says nothing and hears nothing for a while;
//                                                           prints `kept alive BYTES` when the peer
//                                                           sent an empty frame
//   node hyperdht-echo.mjs testnet SIZE                     starts a DHT; prints `bootstrap HOST:PORT`
//
// Ends when its standard input does, so that it never outlives the test.
import DHT from 'hyperdht'
import createTestnet from 'hyperdht/testnet.js'
import { once } from 'node:events'

const [role, bootstrap, key, ...sizes] = process.argv.slice(2)

process.stdin.resume()
process.stdin.on('end', () => process.exit())

if (role === 'testnet') {
  const testnet = await createTestnet(Number(bootstrap))
  console.log('bootstrap', testnet.bootstrap.map(({ host, port }) => `${host}:${port}`).join(','))
  await once(process.stdin, 'end')
}

const dht = new DHT({ bootstrap: bootstrap.split(','), host: '127.0.0.1' })

if (role === 'serve') {
  const server = dht.createServer((socket) => {
    socket.on('data', (data) => socket.write(data))
    socket.on('end', () => socket.end())
    socket.on('error', (error) => console.log('error', error.code))
    socket.on('close', () => console.log('closed'))
  })
  const keyPair = DHT.keyPair(Buffer.from(key, 'hex'))
  await server.listen(keyPair)
  console.log('listening', keyPair.publicKey.toString('hex'))
} else {
  const began = performance.now()
  const socket = dht.connect(Buffer.from(key, 'hex'))
  socket.on('error', (error) => {
    console.log('error', error.code)
    process.exit()
  })
  await once(socket, 'open')
  console.log('open', Math.round(performance.now() - began))
  for (const size of sizes.map(Number)) {
    const sent = Buffer.alloc(size, size % 251)
    const began = performance.now()
    socket.write(sent)
    const [echo] = await once(socket, 'data')
    console.log(echo.equals(sent) ? 'echoed' : 'garbled', size, (performance.now() - began).toFixed(2))
  }
  if (role === 'idle') {
    // Counts the bodies of frames after the first: 17 bytes are an empty message.
    while (socket.rawBytesRead < 17) await new Promise((resolve) => setTimeout(resolve, 100))
    console.log('kept alive', socket.rawBytesRead)
  }
  socket.end()
  await once(socket, 'close')
  console.log('closed')
  await dht.destroy()
  process.exit()
}

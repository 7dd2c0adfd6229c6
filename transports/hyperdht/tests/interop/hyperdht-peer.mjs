// A Node peer for the interop tests. Keys, seeds and topics are hexadecimal.
//
//   node hyperdht-peer.mjs testnet SIZE                 starts a network; prints `ready HOST:PORT`
//   node hyperdht-peer.mjs serve BOOTSTRAP SEED         echoes messages; prints `listening KEY`
//   node hyperdht-peer.mjs refuse BOOTSTRAP SEED        the same, and lets nobody in
//   node hyperdht-peer.mjs dial BOOTSTRAP KEY SIZE...   sends a message of each size and waits for
//                                                       its echo; prints `echoed SIZE SHA256 MS`
//   node hyperdht-peer.mjs crowd BOOTSTRAP KEY COUNT    dials as so many nodes at once
//   node hyperdht-peer.mjs pool BOOTSTRAP SEED KEY      echoes messages, and dials when it reads a line,
//                                                       all in a pool; prints `listening KEY`,
//                                                       `dialling`, `open dialled` or `open taken`
//   node hyperdht-peer.mjs announce BOOTSTRAP TOPIC SEED  prints `announced KEY`
//   node hyperdht-peer.mjs lookup BOOTSTRAP TOPIC       prints `found KEY...`
//   node hyperdht-peer.mjs put BOOTSTRAP SEED SEQ TEXT  stores an immutable and a mutable value;
//                                                       prints `stored HASH KEY`
//   node hyperdht-peer.mjs get BOOTSTRAP HASH KEY       prints `immutable TEXT`, `mutable SEQ TEXT`
//
// Ends when its standard input does, so that it never outlives the test.
import DHT from 'hyperdht'
import createTestnet from 'hyperdht/testnet.js'
import { createHash } from 'node:crypto'
import { once } from 'node:events'

const [role, bootstrap, ...args] = process.argv.slice(2)
const hex = (text) => Buffer.from(text, 'hex')
const node = () => new DHT({ bootstrap: bootstrap.split(','), host: '127.0.0.1' })

process.stdin.resume()
process.stdin.on('end', () => process.exit())

const roles = { testnet, serve, refuse, dial, crowd, pool, announce, lookup, put, get }
await roles[role]()

async function testnet () {
  const net = await createTestnet(Number(bootstrap), { host: '127.0.0.1' })
  console.log('ready', `${net.bootstrap[0].host}:${net.bootstrap[0].port}`)
}

async function serve (firewall = () => false) {
  const server = node().createServer({ firewall }, (socket) => {
    socket.on('data', (data) => socket.write(data))
    socket.on('end', () => socket.end())
    socket.on('error', (error) => console.log('error', error.code))
    socket.on('close', () => console.log('closed'))
  })
  const keyPair = DHT.keyPair(hex(args[0]))
  await server.listen(keyPair)
  console.log('listening', keyPair.publicKey.toString('hex'))
}

async function refuse () {
  await serve((key) => {
    console.log('refused', key.toString('hex'))
    return true
  })
}

async function dial () {
  const [key, ...sizes] = args
  const dht = node()
  const began = performance.now()
  const socket = dht.connect(hex(key))
  socket.on('error', (error) => {
    console.log('error', error.code)
    process.exit()
  })
  await once(socket, 'open')
  console.log('open', (performance.now() - began).toFixed(2))
  for (const size of sizes.map(Number)) {
    const sent = Buffer.alloc(size)
    for (let at = 0; at < size; at++) sent[at] = (at * 31 + (at >> 8)) & 255
    const began = performance.now()
    socket.write(sent)
    const [echo] = await once(socket, 'data')
    const took = (performance.now() - began).toFixed(2)
    if (!echo.equals(sent)) console.log('garbled', size)
    console.log('echoed', size, createHash('sha256').update(echo).digest('hex'), took)
  }
  socket.end()
  await once(socket, 'close')
  console.log('closed')
  await dht.destroy()
  process.exit()
}

async function crowd () {
  const [key, count] = args
  const nodes = Array.from({ length: Number(count) }, node)
  const one = async (dht, index) => {
    const socket = dht.connect(hex(key))
    socket.write(`hello ${index}`)
    const [echo] = await once(socket, 'data')
    if (echo.toString() !== `hello ${index}`) throw new Error('garbled')
  }
  await Promise.all(nodes.map(one))
  console.log('all', count)
}

async function pool () {
  const dht = node()
  const pool = dht.pool()
  pool.on('connection', (socket) => {
    socket.on('data', (data) => socket.write(data))
    socket.on('error', () => {})
    console.log('open', socket.isInitiator ? 'dialled' : 'taken')
  })
  const keyPair = DHT.keyPair(hex(args[0]))
  await dht.createServer({ pool }).listen(keyPair)
  console.log('listening', keyPair.publicKey.toString('hex'))
  await once(process.stdin, 'data')
  dht.connect(hex(args[1]), { pool, keyPair }).on('error', () => {})
  console.log('dialling')
}

async function announce () {
  const keyPair = DHT.keyPair(hex(args[1]))
  await node().announce(hex(args[0]), keyPair).finished()
  console.log('announced', keyPair.publicKey.toString('hex'))
}

async function lookup () {
  const keys = new Set()
  for await (const { peers } of node().lookup(hex(args[0]))) {
    for (const peer of peers) keys.add(peer.publicKey.toString('hex'))
  }
  console.log('found', ...keys)
}

async function put () {
  const [seed, seq, text] = args
  const dht = node()
  const { hash } = await dht.immutablePut(Buffer.from(text))
  const keyPair = DHT.keyPair(hex(seed))
  await dht.mutablePut(keyPair, Buffer.from(text), { seq: Number(seq) })
  console.log('stored', hash.toString('hex'), keyPair.publicKey.toString('hex'))
}

async function get () {
  const dht = node()
  const immutable = await dht.immutableGet(hex(args[0]))
  console.log('immutable', immutable.value.toString())
  const mutable = await dht.mutableGet(hex(args[1]))
  console.log('mutable', mutable.seq, mutable.value.toString())
}

// A network of Node nodes that counts whom lookups ask, for `hops_interop.rs`.
//
//   node hops.mjs SIZE         starts SIZE nodes in one process; prints `ready HOST:PORT`
//
// Then it does what lines of its standard input say, and ends with it:
//
//   find COUNT                 a new Node client looks COUNT keys up, one after another; prints `found`
//   report                     prints one line of JSON about all lookups since the last one: for each,
//                              how many nodes were asked and over how many hops the last one was found
//
// The keys are SHA-256 of "key 0", "key 1" and so on; nobody announces them, so that every lookup goes
// to the end. A node that the client knew from the start is one hop away.
import DHT from 'hyperdht'
import createTestnet from 'hyperdht/testnet.js'
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'

const FIND_PEER = 2

const net = await createTestnet(Number(process.argv[2]), { host: '127.0.0.1' })
const lookups = new Map()
for (const node of net.nodes) count(node)
console.log('ready', `127.0.0.1:${net.bootstrap[0].port}`)

for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ')
  if (command === 'find') await find(Number(argument))
  if (command === 'report') report()
}
process.exit()

function count (node) {
  const answer = node.onrequest.bind(node)
  const own = node.address().port
  node.onrequest = (req) => {
    if (req.command === FIND_PEER && req.target) note(req.target, own, node)
    return answer(req)
  }
}

function note (target, port, node) {
  const key = target.toString('hex')
  if (!lookups.has(key)) lookups.set(key, { asked: new Map(), named: new Map() })
  const { asked, named } = lookups.get(key)
  if (asked.has(port)) return
  const hops = named.get(port) ?? 1
  asked.set(port, hops)
  for (const other of node.table.closest(target)) {
    named.set(other.port, Math.min(named.get(other.port) ?? Infinity, hops + 1))
  }
}

async function find (count) {
  const client = new DHT({ bootstrap: net.bootstrap, host: '127.0.0.1' })
  await client.fullyBootstrapped()
  for (let i = 0; i < count; i++) {
    const key = createHash('sha256').update(`key ${i}`).digest()
    await client.findPeer(key).finished()
  }
  await client.destroy()
  console.log('found')
}

function report () {
  const all = [...lookups.values()].map(({ asked }) => [asked.size, Math.max(...asked.values())])
  console.log(JSON.stringify(all))
  lookups.clear()
}

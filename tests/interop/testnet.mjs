// A HyperDHT network of its own on 127.0.0.1.
//
//   node testnet.mjs [nodes]
//
// Prints {"event":"ready","host":...,"port":...}, the bootstrap node, and runs until stdin closes.
import createTestnet from 'hyperdht/testnet.js'
import { endWithStdin, report } from './lifeline.mjs'

endWithStdin()
const testnet = await createTestnet(Number(process.argv[2] ?? 4), { host: '127.0.0.1' })
report('ready', testnet.bootstrap[0])

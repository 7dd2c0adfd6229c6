// One end of a benchmark on udx-native, in a process of its own.
//
//   node udx-bench.js answer                                 says its port, then answers
//   node udx-bench.js ask PORT REQUEST_LEN ANSWER_LEN COUNT  asks one request after another
//
// A request begins with the length of its answer, 4 bytes, least significant first. Either end
// prints one line of JSON with the CPU time it took; the answerer when its stdin ends.
'use strict'

const UDX = require('udx-native')

const [mode, ...args] = process.argv.slice(2)
const udx = new UDX()
const socket = udx.createSocket()
socket.bind(0, '127.0.0.1')
const zeros = Buffer.alloc(1 << 20)
let started = process.cpuUsage()

function cpuMicros () {
  const { user, system } = process.cpuUsage(started)
  return user + system
}

function answerer () {
  const stream = udx.createStream(2, {
    firewall (from, port, host) {
      if (!stream.connected) stream.connect(from, 1, port, host)
      return false
    }
  })
  let request = []
  let missing = Number(args[0])
  stream.on('data', async (data) => {
    request.push(data)
    missing -= data.length
    if (missing > 0) return
    const len = Buffer.concat(request).readUInt32LE(0)
    request = []
    missing = Number(args[0])
    for (let left = len; left > 0;) {
      const chunk = zeros.subarray(0, Math.min(left, zeros.length))
      left -= chunk.length
      if (!stream.write(chunk)) await new Promise((resolve) => stream.once('drain', resolve))
    }
  })
  stream.on('error', () => {})
  process.stdin.on('data', () => { started = process.cpuUsage() })
  process.stdin.on('end', () => {
    console.log(JSON.stringify({ cpu: cpuMicros() }))
    process.exit(0)
  })
  console.log(JSON.stringify({ port: socket.address().port }))
}

function asker () {
  const [port, requestLen, answerLen, count] = args.map(Number)
  const stream = udx.createStream(1)
  stream.connect(socket, 2, port, '127.0.0.1')
  const request = Buffer.alloc(requestLen)
  request.writeUInt32LE(answerLen, 0)
  const warmup = Math.min(count >> 2, 200)
  const times = []
  let missing = 0
  let asked = 0n
  let begun = 0n

  function ask () {
    if (times.length === warmup) {
      started = process.cpuUsage()
      begun = process.hrtime.bigint()
    }
    missing = answerLen
    asked = process.hrtime.bigint()
    stream.write(request)
  }

  stream.on('data', (data) => {
    missing -= data.length
    if (missing > 0) return
    const now = process.hrtime.bigint()
    times.push(Number(now - asked) / 1000)
    if (times.length < count + warmup) return ask()
    const measured = times.slice(warmup).sort((a, b) => a - b)
    console.log(JSON.stringify({
      p50: measured[measured.length >> 1],
      p99: measured[Math.floor(measured.length * 0.99)],
      seconds: Number(now - begun) / 1e9,
      cpu: cpuMicros()
    }))
    process.exit(0)
  })
  ask()
}

if (mode === 'answer') answerer()
else asker()

// A udx-native peer that does what it is told: one JSON command per line on stdin, one JSON event
// per line on stdout. Payloads are a keyed pattern, so that both sides can make and check them.
'use strict'

const { createHash } = require('crypto')
const readline = require('readline')
const UDX = require('udx-native')

const udx = new UDX()
const sockets = []
const streams = new Map()

function emit (event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

// xorshift32, one byte per step.
function * chunks (len, seed) {
  let x = (seed | 1) >>> 0
  for (let left = len; left > 0;) {
    const chunk = Buffer.allocUnsafe(Math.min(left, 65536))
    for (let i = 0; i < chunk.length; i++) {
      x ^= x << 13
      x ^= x >>> 17
      x ^= x << 5
      chunk[i] = x & 0xff
    }
    left -= chunk.length
    yield chunk
  }
}

function watch (stream, id, mode) {
  const hash = createHash('sha256')
  let len = 0
  stream.on('data', (data) => {
    len += data.length
    if (mode === 'echo') stream.write(data)
    else hash.update(data)
  })
  stream.on('end', () => {
    emit({ event: 'end', id, len, hash: hash.digest('hex') })
    if (mode === 'echo') stream.end()
  })
  stream.on('message', (message) => emit({ event: 'message', id, hex: message.toString('hex') }))
  stream.on('error', (error) => emit({ event: 'error', id, code: error.code || error.message }))
  stream.on('close', () => emit({ event: 'close', id }))
}

const commands = {
  bind () {
    const socket = udx.createSocket()
    socket.bind(0, '127.0.0.1')
    socket.on('message', (message, from) => {
      emit({ event: 'datagram', hex: message.toString('hex'), port: from.port })
    })
    sockets.push(socket)
    emit({ event: 'bound', port: socket.address().port })
  },

  // Without a port the stream connects to whoever sends its first packet.
  open ({ id, remoteId, port, mode, socket = 0 }) {
    const stream = udx.createStream(id, {
      firewall (from, fromPort, host) {
        if (stream.connected) return false
        stream.connect(from, remoteId, fromPort, host)
        emit({ event: 'connected', id, port: fromPort })
        return false
      }
    })
    streams.set(id, stream)
    watch(stream, id, mode)
    if (port) stream.connect(sockets[socket], remoteId, port, '127.0.0.1')
    emit({ event: 'opened', id })
  },

  async write ({ id, len, seed, end }) {
    const stream = streams.get(id)
    const hash = createHash('sha256')
    for (const chunk of chunks(len, seed)) {
      hash.update(chunk)
      if (!stream.write(chunk)) await new Promise((resolve) => stream.once('drain', resolve))
    }
    if (end) stream.end()
    emit({ event: 'written', id, hash: hash.digest('hex') })
  },

  end ({ id }) {
    streams.get(id).end()
  },

  destroy ({ id }) {
    streams.get(id).destroy()
  },

  send ({ id, hex }) {
    streams.get(id).trySend(Buffer.from(hex, 'hex'))
  },

  keepalive ({ id, ms }) {
    streams.get(id).setKeepalive(ms)
  },

  relay ({ id, to }) {
    streams.get(id).relayTo(streams.get(to))
  },

  async changeRemote ({ id, remoteId, port, socket = 0 }) {
    await streams.get(id).changeRemote(sockets[socket], remoteId, port, '127.0.0.1')
    emit({ event: 'remote-changed', id })
  },

  stats ({ id }) {
    const stream = streams.get(id)
    const { rtt, cwnd, mtu, rtoCount, retransmits, fastRecoveries, packetsTransmitted, packetsReceived } = stream
    const cpu = process.cpuUsage()
    emit({
      event: 'stats',
      id,
      rtt,
      cwnd,
      mtu,
      rtoCount,
      retransmits,
      fastRecoveries,
      packetsTransmitted,
      packetsReceived,
      cpu: cpu.user + cpu.system
    })
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line)
    commands[command.cmd](command)
  })
  .on('close', () => process.exit(0))

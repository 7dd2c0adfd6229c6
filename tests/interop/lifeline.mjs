// Ties this process to the one that started it: when the starter closes our stdin, on purpose or
// by dying, we end at once. No test leaves a Node process behind, however it ends.
export function endWithStdin () {
  const end = () => process.exit(0)
  process.stdin.on('end', end).on('close', end).on('error', end).resume()
  process.stdout.on('error', end)
}

// One event, one line of JSON.
export function report (event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

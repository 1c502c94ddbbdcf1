//go:build race

package controller

// racing says that the race detector watches: it needs few seeds, for it looks
// at how the loops share memory, and each takes it ten times as long.
const racing = true

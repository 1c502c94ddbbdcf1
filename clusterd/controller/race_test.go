//go:build race

package controller

// racing says that the race detector watches: it looks at how the loops share
// memory, and aborts by itself ("CHECK failed: tsan_rtl") when one process lives
// through thousands of virtual hours. Campaigns do without it.
const racing = true

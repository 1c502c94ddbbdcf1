//go:build !race

package controller

// racing says that the race detector watches.
const racing = false

//go:build !race

package provider_test

// racing says that the race detector watches.
const racing = false

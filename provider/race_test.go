//go:build race

package provider_test

// racing says that the race detector watches: what drives the real Terraform
// leaves that to the other layers, for its time goes into a thousand processes
// that the detector does not see.
const racing = true

package api

import (
	"fmt"
	"hash/fnv"
)

// Label joins name and suffix to a DNS label: a name that is too long is cut,
// and told apart from others cut alike by a hash.
func Label(name, suffix string) string {
	const most = 63
	if len(name)+len(suffix) <= most {
		return name + suffix
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("%s-%06x%s", name[:most-len(suffix)-7], h.Sum32()&0xffffff, suffix)
}

// OrdinalName is the name that every pod of an ordinal has in DNS: db-0.
func OrdinalName(app string, ordinal int) string { return Label(app, fmt.Sprintf("-%d", ordinal)) }

// EpochName is the name of one pod of an ordinal: db-0-17. Who makes it twice
// makes it once.
func EpochName(app string, ordinal int, epoch int64) string {
	return Label(app, fmt.Sprintf("-%d-%d", ordinal, epoch))
}

// What a node does with a stateful pod when it loses the control plane.
const (
	StopIsolated = "stop"
	KeepIsolated = "keep"
)

// Isolated is the reason of a pod that its node stopped because its run lease
// had ended: it says nothing of the pod.
const Isolated = "isolated"

// Unreachable is the reason of a pod that may still run on a node that is
// gone: nothing takes its place yet.
const Unreachable = "node_unreachable"

package scheduler

// needs is what could help a pod that fits nowhere. A pod that waits is looked
// at again only when something of that has come.
type needs uint8

const (
	needRoom needs = 1 << iota // on a node that fits otherwise
	needPods                   // of some app to come, or to go
	needNode                   // another, or one with other labels or taints

	needAny = needRoom | needPods | needNode
)

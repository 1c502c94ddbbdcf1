package api

import (
	"fmt"
	"time"
)

// Move asks an app's loop to have a pod replaced on another node: a part of the
// pod's status that users write, at the sub-path move. It ends with the pod, or
// lapses.
type Move struct {
	At  time.Time `json:"at,omitzero" doc:"When it was asked for."`
	Why string    `json:"why,omitempty" doc:"What for."`
}

// Over reports whether nobody tries any more.
func (m *Move) Over(now time.Time) bool { return m == nil || !now.Before(m.At.Add(MoveLapses)) }

// MoveLapses is how long a move is tried: after that the pod stays.
const MoveLapses = 10 * time.Minute

// Rebalance is what POST /v1/rebalance answers: pods to move, so that apps are
// spread again and the fullest nodes have less to do. They are moved by their apps, as from a node
// that is drained: each goes once its replacement is ready.
type Rebalance struct {
	Moves   []PodMove `json:"moves"`
	Before  int       `json:"before" doc:"Percentage of the fullest node that is reserved, of cpu or memory, whichever is more."`
	After   int       `json:"after" doc:"The same after the moves."`
	Message string    `json:"message,omitempty" doc:"Why there are no more moves, in words."`
}

// PodMove is one pod that would be better off on another node.
type PodMove struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	From      string `json:"from" doc:"Its node."`
	To        string `json:"to" doc:"Where the scheduler would place its replacement now."`
	Resource  string `json:"resource" enum:"cpu,memory" doc:"What its node has least left of."`
	Before    int    `json:"before" doc:"Percentage of it that is reserved on its node."`
	After     int    `json:"after" doc:"The same without the pod."`
	Why       string `json:"why" doc:"What is wrong now, in words: its node is full, or its app close together."`
}

func (m PodMove) String() string {
	return fmt.Sprintf("~ %s/%s  %s -> %s  (%s)", m.Namespace, m.Pod, m.From, m.To, m.Why)
}

package api

import "time"

// PodUsage is what one pod uses now, of what it reserves. Agents measure it
// when somebody asks; nothing of it is stored.
type PodUsage struct {
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	UID       string    `json:"uid"`
	Node      string    `json:"node,omitempty"`
	CPU       int64     `json:"cpu" doc:"Thousandths of a core, over the last seconds."`
	Memory    int64     `json:"memory" doc:"Bytes in use, without what can be dropped at once."`
	At        time.Time `json:"at" doc:"When it was measured."`
}

// UsageAnswer is what agents and servers answer when asked for usage.
type UsageAnswer struct {
	Items []PodUsage `json:"items"`
	Mute  []string   `json:"mute,omitempty" doc:"Nodes that did not answer: their pods are missing."`
}

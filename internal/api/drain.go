package api

// AppliedReport is the body of POST /v1/nodes/{name}/applied: a node's proxy
// acknowledges what it has programmed.
type AppliedReport struct {
	Revision int64 `json:"revision" doc:"Everything the endpoints watch said up to here is programmed."`
}

// DrainedAnswer is what GET …/pods/{name}/drained says.
type DrainedAnswer struct {
	Drained bool     `json:"drained" doc:"No node sends new connections to the pod."`
	Waiting []string `json:"waiting,omitempty" doc:"Nodes that may still do."`
}

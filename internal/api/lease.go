package api

// LeaseAnswer is what POST /v1/nodes/{name}/lease says: the node may run pods
// that stop in isolation for so long, counted from before it asked.
type LeaseAnswer struct {
	For Duration `json:"for" doc:"How long the lease lasts, counted from before the request was sent."`
}

package api

// Headers of requests and answers, beyond HTTP's own.
const (
	HeaderRequestID = "Clusterd-Request-Id" // makes a retried write replay its result
	HeaderFence     = "Clusterd-Fence"      // revision of the fence key: a deposed leader's write fails
	HeaderRevision  = "Clusterd-Revision"   // of the answer: what it is as of
)

package api

import "encoding/json"

// The most bytes that an object, or a batch, may have in a request.
const (
	MaxObject = 1 << 20
	MaxBatch  = 8 << 20
)

// MaxBatchWrites bounds one batch, and with what each write reads and writes
// beside its object, the transaction it becomes.
const MaxBatchWrites = 500

// Batch is the body of POST /v1/batch: all writes happen in one transaction,
// if all preconditions hold, or none does.
type Batch struct {
	Preconditions []BatchPrecondition `json:"preconditions,omitempty" doc:"What must be so for the writes to happen."`
	Writes        []BatchWrite        `json:"writes" doc:"At most 500; each sees the effects of those before it."`
}

// BatchPrecondition is about one object. Exactly what is set is demanded.
type BatchPrecondition struct {
	Ref        Ref    `json:"ref"`
	Absent     bool   `json:"absent,omitempty" doc:"The object does not exist."`
	UID        string `json:"uid,omitempty"`
	Generation int64  `json:"generation,omitempty"`
	Revision   int64  `json:"revision,omitempty"`
}

// BatchWrite is one write. Exactly one field is set, and rollout beside put.
type BatchWrite struct {
	Create  json.RawMessage `json:"create,omitempty" doc:"A whole object; one of its name must not exist."`
	Put     json.RawMessage `json:"put,omitempty" doc:"A whole object to create, or whose spec and labels to replace."`
	Rollout int64           `json:"rollout,omitempty" doc:"With put, of an app: the number of an earlier rollout, whose images are put back as they were."`
	Status  json.RawMessage `json:"status,omitempty" doc:"A whole object whose status to replace."`
	Delete  *BatchDelete    `json:"delete,omitempty"`
	Bind    *Binding        `json:"bind,omitempty" doc:"Give a pod its node; refused if it does not fit."`
}

// BatchDelete asks for a deletion.
type BatchDelete struct {
	Ref   Ref    `json:"ref"`
	UID   string `json:"uid,omitempty" doc:"Only this incarnation; if it is gone already, nothing is left to do."`
	Final bool   `json:"final,omitempty" doc:"Remove an object of a two-step kind for good."`
}

// Binding gives a pod its node, once.
type Binding struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	Node      string `json:"node"`
}

// BatchAnswer is what a batch that happened says.
type BatchAnswer struct {
	Revision int64 `json:"revision" doc:"Of the transaction."`
}

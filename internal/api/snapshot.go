package api

// SnapshotRequest is the body of POST /v1/snapshot.
type SnapshotRequest struct {
	// Passphrase that the snapshot's keys are wrapped with; without one it has
	// none, and is restored with a server's keys.json beside it.
	Passphrase string `json:"passphrase,omitempty"`
}

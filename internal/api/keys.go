package api

// KeyIDs names the keys that a member of the cluster has of those that members
// share, by the first bytes of their hashes. They say nothing of the keys.
type KeyIDs struct {
	Authorities string `json:"authorities,omitempty" doc:"Certificate authorities it trusts; the first signed its own certificate. Separated by commas."`
	Gossip      string `json:"gossip,omitempty" doc:"Keys it understands; it speaks the last. Separated by commas."`
}

// What there is to rotate, as in POST /v1/keys/{what}.
const (
	KeysGossip      = "gossip"
	KeysAuthorities = "authorities"
	KeysSecrets     = "secrets"
)

// Keys is the answer to GET /v1/keys, and to a rotation.
type Keys struct {
	KeyIDs
	Secrets []string `json:"secrets" doc:"Ids of the keys that open secrets; the last seals, backups may need the others."`
	Next    string   `json:"next,omitempty" doc:"What a rotation that is under way does next."`
	Waits   []string `json:"waits,omitempty" doc:"Whom it waits for, and why."`
	Sealed  int      `json:"sealed,omitempty" doc:"Versions of secrets that were sealed anew just now."`
	Removed []string `json:"removed,omitempty" doc:"Ids of keys for secrets that were removed just now."`
}

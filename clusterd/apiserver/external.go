package apiserver

import (
	"context"
	"errors"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// The servers of a cluster whose state is in an etcd of the operator's are
// members of nothing: they join for the keys alone, and whoever has the etcd's
// lease leads.

// HasCluster reports whether the etcd has a cluster at its place.
func HasCluster(ctx context.Context, c ExternalConfig) (bool, error) {
	s, err := store.OpenExternal(ctx, c)
	if err != nil {
		return false, err
	}
	_, err = s.Get(ctx, keysKey)
	there := err == nil
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return there, errors.Join(err, s.Close())
}

// keepsStore refuses a server that joins whose store could not be that of the
// others.
func (t *txn) keepsStore(req pki.JoinRequest) error {
	switch shared := t.s.cfg.External; {
	case shared != nil && req.Peer != "":
		return api.Errorf(api.Conflict, "the state of this cluster is in an etcd of its own, below %s: start the server with --etcd-endpoints, and the same --etcd-prefix, so that it uses that, too", shared.Prefix)
	case shared == nil && t.s.membership() == nil:
		return api.Errorf(api.Conflict, "this server keeps its state in memory: no other can join it")
	case shared == nil && req.Peer == "":
		return api.Errorf(api.Conflict, "the servers of this cluster keep its state themselves: start the server without --etcd-endpoints")
	}
	return nil
}

// checkStopped demands that a server has ended which is deleted: nothing else
// would take it out.
func (t *txn) checkStopped(old *object) error {
	if t.s.dead(old) {
		return nil
	}
	return conflict(api.Conflict, old.ref(), "is alive, or was a moment ago, and uses the etcd by itself: stop it first, and delete it once clusterd get servers shows it as dead")
}

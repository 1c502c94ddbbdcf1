package apiserver

import (
	"bytes"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// handover takes objects from the transactions that write them to the cache, to
// which the store's watch shows them: what this server has written itself it
// need not decode. An object is what its bytes say, so whoever wrote the same
// bytes, and whether the one who was expected to did, does not matter.
type handover struct {
	mu      sync.Mutex
	objects map[string]*object // by key
}

// expect keeps objects that are about to be written.
func (h *handover) expect(staged map[string]*object) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, o := range staged {
		if o == nil || o.known == nil {
			continue
		}
		if h.objects == nil {
			h.objects = map[string]*object{}
		}
		h.objects[key] = o
	}
}

// forget drops what was not written after all, or perhaps was.
func (h *handover) forget(staged map[string]*object) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, o := range staged {
		if o != nil && h.objects[key] == o {
			delete(h.objects, key)
		}
	}
}

// clear drops everything: what was written may have been listed.
func (h *handover) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.objects = nil
}

// take returns the object of an entry if it was expected as it is, or nil.
func (h *handover) take(e store.Entry) *object {
	h.mu.Lock()
	written := h.objects[e.Key]
	if written == nil || !bytes.Equal(written.value, e.Value) {
		h.mu.Unlock()
		return nil
	}
	delete(h.objects, e.Key)
	h.mu.Unlock()
	o := *written
	o.value, o.meta.Revision = nil, e.Revision
	o.seal(e.Value)
	o.deriveFrom(written.known)
	// Who binds it, or looks after it here, wants it.
	o.known = &api.Pod{Kind: o.kind.info.Name, Meta: o.meta, Spec: written.known.Spec, Status: written.known.Status}
	return &o
}

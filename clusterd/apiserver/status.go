package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// serveStatus answers PUT of an object's status, or with part of one part of
// it. Only that is taken from the body; a status write splices bytes, so what
// this server does not know survives it.
func (s *Server) serveStatus(w http.ResponseWriter, r *request, part string) error {
	key, err := r.key()
	if err != nil {
		return err
	}
	raw, err := readBody(w, r, api.MaxObject)
	if err != nil {
		return err
	}
	in, err := open(r.kind, r.PathValue("namespace"), r.PathValue("name"), raw, r.by.check)
	if err != nil {
		return err
	}
	if err := in.checkStatus(r.by.check); err != nil {
		return err
	}
	return s.write(w, r, func(t *txn) (*object, int, error) {
		o, err := t.putStatus(key, in, part)
		return o, http.StatusOK, err
	})
}

// checkStatus refuses what does not fit. A zero status may be left out.
func (in *incoming) checkStatus(check checker) error {
	if len(in.status) == 0 || string(in.status) == "null" {
		in.status = json.RawMessage("{}")
	}
	if errs := check(in.status, in.kind.info.Status, "status"); errs != nil {
		return invalid(in.ref(), errs)
	}
	return nil
}

// putStatus replaces the status but for its parts, or with part only that.
func (t *txn) putStatus(key string, in *incoming, part string) (*object, error) {
	old := t.read(key)
	if old == nil && t.by.Role == RoleNode { // what is gone was its own
		return nil, t.s.missing(t.snap, in.ref())
	}
	if err := allow(t.by, ask{partVerb(part), in.kind, in.meta.Namespace, in.meta.Name, part, old, false}); err != nil {
		return nil, err
	}
	if old == nil {
		return nil, t.s.missing(t.snap, in.ref())
	}
	if in.meta.UID != "" && in.meta.UID != old.meta.UID {
		return nil, conflict(api.Precondition, in.ref(), "was deleted and created again since it was read")
	}
	o := old.with()
	var err error
	if o.status, err = splice(old.status, in.status, in.kind.info.Parts, part); err != nil {
		return nil, fmt.Errorf("splice status of %s: %w", in.ref(), err)
	}
	if sameJSON(old.status, o.status) {
		return old, nil
	}
	if in.kind.info.Name == api.Pods.Name {
		if err := t.checkPhase(old, o); err != nil {
			return nil, err
		}
	}
	t.put(o)
	return o, nil
}

// splice returns the new status with the old one's parts, or the old one with
// the new one's part.
func splice(old, next json.RawMessage, parts []string, part string) (json.RawMessage, error) {
	if len(parts) == 0 {
		return next, nil
	}
	var was, is map[string]json.RawMessage
	if len(old) > 0 {
		if err := json.Unmarshal(old, &was); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(next, &is); err != nil {
		return nil, err
	}
	// Whatever the case: decoders take Health for health.
	out, from, take := is, was, func(p string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.EqualFold(p, part) })
	}
	if part != "" {
		out, from, take = was, is, func(p string) bool { return p == part }
	}
	merged := map[string]json.RawMessage{}
	for k, v := range out {
		if !take(k) {
			merged[k] = v
		}
	}
	for k, v := range from {
		if take(k) {
			merged[k] = v
		}
	}
	return marshal(merged), nil
}

// checkPhase keeps a pod's life going forward only: an agent that comes back
// cannot revive a pod that was given up.
func (t *txn) checkPhase(old, o *object) error {
	was, is := phaseOf(old), phaseOf(o)
	if was.MayBecome(is) {
		return nil
	}
	if was.Ended() {
		return conflict(api.Conflict, o.ref(), "the pod is %s: it has ended and cannot become %s", was, is)
	}
	return conflict(api.Conflict, o.ref(), "the pod is %s and cannot go back to %q", was, is)
}

func phaseOf(o *object) api.Phase {
	var st struct{ Phase api.Phase }
	if len(o.status) > 0 && json.Unmarshal(o.status, &st) != nil {
		return ""
	}
	return st.Phase
}

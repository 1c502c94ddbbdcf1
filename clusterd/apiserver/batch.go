package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// write is one of a batch that was checked as far as it can be alone.
type write func(t *txn) error

// serveBatch answers POST /v1/batch.
func (s *Server) serveBatch(w http.ResponseWriter, r *request) error {
	b, err := decodeBody[api.Batch](w, r, api.MaxBatch, strict)
	if err != nil {
		return err
	}
	if n := len(b.Writes); n == 0 || n > api.MaxBatchWrites {
		return invalid(api.Ref{}, api.Errors{{Path: "writes", Message: fmt.Sprintf("want 1 to %d, not %d", api.MaxBatchWrites, n)}})
	}
	writes := make([]write, len(b.Writes))
	var bad located
	for i, op := range b.Writes {
		r.does(s.deed(op))
		var err error
		writes[i], err = s.open(r.by, op)
		bad.add(i, err)
	}
	if err := bad.err(); err != nil {
		return err
	}
	once := r.once()
	revision, err := s.commit(r.Context(), r.by, func(t *txn) error {
		return once.do(t, func() (done, error) {
			for i, p := range b.Preconditions {
				if err := t.demand(p); err != nil {
					return done{}, at(fmt.Sprintf("preconditions[%d]", i), err)
				}
			}
			var bad located
			for i, write := range writes {
				bad.add(i, write(t))
			}
			return done{Code: http.StatusOK}, bad.err()
		})
	})
	if err == nil && once.before != nil {
		revision = once.before.meta.Revision
	}
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, revision, marshal(api.BatchAnswer{Revision: revision}))
	return nil
}

// kindOf finds a kind by its name.
func (s *Server) kindOf(name string) (*kind, error) {
	var known []string
	for _, k := range s.kinds {
		if k.info.Name == name {
			return k, nil
		}
		known = append(known, k.info.Name)
	}
	return nil, api.Errorf(api.BadRequest, "there is no kind %q%s", name, didYouMean(name, known))
}

// deed says what a write of a batch does, as far as that can be told.
func (s *Server) deed(op api.BatchWrite) (api.Verb, api.Ref) {
	verb, raw := api.VerbWrite, op.Put
	switch {
	case op.Delete != nil:
		if op.Delete.Final {
			return api.VerbFinalize, op.Delete.Ref
		}
		return api.VerbDelete, op.Delete.Ref
	case op.Bind != nil:
		return api.VerbBind, api.Pods.Ref(op.Bind.Namespace, op.Bind.Pod)
	case op.Create != nil:
		raw = op.Create
	case op.Status != nil:
		verb, raw = api.VerbStatus, op.Status
	}
	k, ns, name, err := s.nameOf(raw)
	if err != nil {
		return verb, api.Ref{}
	}
	return verb, k.ref(ns, name)
}

// open checks one write as far as it can be alone.
func (s *Server) open(by caller, op api.BatchWrite) (write, error) {
	set := 0
	for _, is := range []bool{op.Create != nil, op.Put != nil, op.Status != nil, op.Delete != nil, op.Bind != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return nil, api.Errorf(api.BadRequest, "want exactly one of create, put, status, delete, bind")
	}
	switch {
	case op.Status != nil:
		return s.openStatus(by, op.Status)
	case op.Delete != nil:
		k, err := s.kindOf(op.Delete.Ref.Kind)
		if err != nil {
			return nil, err
		}
		ref, d := op.Delete.Ref, deletion{uid: op.Delete.UID, final: op.Delete.Final}
		return func(t *txn) error {
			_, err := t.delete(k, ref, d)
			if d.uid != "" && (api.Is(err, api.NotFound) || api.Is(err, api.Precondition)) {
				return nil // that incarnation is gone
			}
			return err
		}, nil
	case op.Bind != nil:
		if err := allow(by, ask{verb: api.VerbBind, kind: s.kinds["pods"], namespace: op.Bind.Namespace, name: op.Bind.Pod}); err != nil {
			return nil, err
		}
		return func(t *txn) error { return t.bind(*op.Bind) }, nil
	}
	raw, pre := op.Put, precondition{}
	if op.Create != nil {
		raw, pre.absent = op.Create, true
	}
	k, ns, name, err := s.nameOf(raw)
	if err != nil {
		return nil, err
	}
	if err := allow(by, ask{verb: api.VerbWrite, kind: k, namespace: ns, name: name}); err != nil {
		return nil, err
	}
	in, err := openSpec(k, ns, name, raw)
	if err != nil {
		return nil, err
	}
	in.rollout = op.Rollout
	return func(t *txn) error { _, _, err := t.putSpec(in, pre); return err }, nil
}

func (s *Server) openStatus(by caller, raw json.RawMessage) (write, error) {
	k, ns, name, err := s.nameOf(raw)
	if err != nil {
		return nil, err
	}
	in, err := open(k, ns, name, raw, by.check)
	if err != nil {
		return nil, err
	}
	if err := in.checkStatus(by.check); err != nil {
		return nil, err
	}
	return func(t *txn) error { _, err := t.putStatus(k.key(ns, name), in, ""); return err }, nil
}

// nameOf reads what a whole object is called.
func (s *Server) nameOf(raw json.RawMessage) (k *kind, namespace, name string, err error) {
	var head struct {
		Kind string
		Meta struct{ Namespace, Name string }
	}
	if wire.Unmarshal(raw, &head) != nil {
		return nil, "", "", api.Errorf(api.BadRequest, "want a whole object with kind, meta and spec")
	}
	if k, err = s.kindOf(head.Kind); err != nil {
		return nil, "", "", err
	}
	if !plausible(head.Meta.Name) || k.namespaced() != plausible(head.Meta.Namespace) {
		errs := api.Errors{{Path: "meta.name", Message: "want a name, and a namespace where the kind has one"}}
		return nil, "", "", invalid(api.Ref{}, errs)
	}
	return k, head.Meta.Namespace, head.Meta.Name, nil
}

// demand checks one precondition.
func (t *txn) demand(p api.BatchPrecondition) error {
	k, err := t.s.kindOf(p.Ref.Kind)
	if err != nil {
		return err
	}
	o := t.read(k.key(p.Ref.Namespace, p.Ref.Name))
	if err := allow(t.by, ask{verb: api.VerbRead, kind: k, namespace: p.Ref.Namespace, name: p.Ref.Name, object: o}); err != nil {
		return err // what a condition says of an object is as good as reading it
	}
	switch {
	case p.Absent && o == nil:
		return nil
	case p.Absent:
		return conflict(api.Precondition, p.Ref, "exists: %s", lastWrite(o))
	case o == nil:
		return conflict(api.Precondition, p.Ref, "does not exist")
	case p.UID != "" && p.UID != o.meta.UID:
		return conflict(api.Precondition, p.Ref, "was deleted and created again")
	case p.Generation != 0 && p.Generation != o.meta.Generation:
		return conflict(api.Precondition, p.Ref, "is at generation %d, not %d", o.meta.Generation, p.Generation)
	case p.Revision != 0 && p.Revision != o.meta.Revision:
		return conflict(api.Precondition, p.Ref, "is at revision %d, not %d", o.meta.Revision, p.Revision)
	}
	return nil
}

// located collects the errors of writes; their fields are below writes[i].
type located struct {
	code   api.Code
	fields api.Errors
	other  error // without a class: ours
}

func (l *located) add(i int, err error) {
	if err == nil {
		return
	}
	e, ok := errors.AsType[*api.Error](at(fmt.Sprintf("writes[%d]", i), err))
	if !ok {
		l.other = err
		return
	}
	if l.code == 0 {
		l.code = e.Code
	}
	l.fields = append(l.fields, e.Fields...)
}

func (l *located) err() error {
	if l.other != nil || l.code == 0 {
		return l.other
	}
	return &api.Error{Code: l.code, Message: "nothing was written: some writes of the batch are not possible", Fields: l.fields}
}

// at moves the fields of err below path. The error itself becomes the first.
func at(path string, err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	what := e.Message
	if e.Ref != nil {
		what = e.Ref.String() + ": " + what
	}
	fields := api.Errors{{Path: path, Message: what}}
	for _, f := range e.Fields {
		if strings.HasPrefix(f.Path, "[") {
			fields = append(fields, api.FieldError{Path: path + f.Path, Message: f.Message})
		} else {
			fields = append(fields, api.FieldError{Path: path + "." + f.Path, Message: f.Message})
		}
	}
	return &api.Error{Code: e.Code, Message: what, Fields: fields}
}

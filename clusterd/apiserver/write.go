package apiserver

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// bodyTimeout is how long a body may take: a caller who sends a byte now and
// then must not hold a connection for ever, least of all one without a token.
const bodyTimeout = 30 * time.Second

// incoming is an object a caller sent, checked as far as it can be alone.
type incoming struct {
	kind   *kind
	meta   api.Meta
	spec   json.RawMessage
	status json.RawMessage
	typed  api.Any // with the spec, for spec writes
	// rollout is the number of the app's rollout whose images are put back; 0: none.
	rollout int64
	// anew has the digests of the images found again, also where tags are the same.
	anew bool
}

func (in *incoming) ref() api.Ref { return in.kind.ref(in.meta.Namespace, in.meta.Name) }

// precondition is what a spec write demands of the object that is there.
type precondition struct {
	absent     bool
	generation int64 // 0 demands nothing
}

func readBody(w http.ResponseWriter, r *request, most int64) ([]byte, error) {
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every writer has one
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		rc.SetReadDeadline(time.Time{})
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, api.Errorf(api.TooLarge, "the body is larger than %d bytes", most)
	}
	if err != nil {
		return nil, api.Errorf(api.BadRequest, "the body could not be read to its end")
	}
	return b, nil
}

// checker says how JSON does not fit a Go type: strict, or what a caller may send.
type checker func(raw []byte, into reflect.Type, path string) api.Errors

// check is strict with people, whose typos must not pass for what they mean. A
// machine may be of a newer version than this server, and say more than it
// knows: that is passed over. It is no way to make a write depend on anything,
// for what is not known is not kept: specs and batches are strict for all.
func (c caller) check(raw []byte, into reflect.Type, path string) api.Errors {
	errs := strict(raw, into, path)
	if c.Role != RoleUser {
		errs = slices.DeleteFunc(errs, isUnknown)
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// decodeBody reads a small body.
func decodeBody[T any](w http.ResponseWriter, r *request, most int64, check checker) (v T, err error) {
	raw, err := readBody(w, r, most)
	if err != nil {
		return v, err
	}
	if errs := check(raw, reflect.TypeFor[T](), ""); errs != nil {
		return v, invalid(api.Ref{}, errs)
	}
	if err := wire.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("decode a body that was checked: %w", err)
	}
	return v, nil
}

// open reads the outside of an object sent to k. The path, where there is
// one, says what it is called.
func open(k *kind, namespace, name string, raw []byte, check checker) (*incoming, error) {
	if errs := check(raw, reflect.TypeFor[envelope](), ""); errs != nil {
		return nil, invalid(k.ref(namespace, name), errs)
	}
	var env envelope
	if err := wire.Unmarshal(raw, &env); err != nil {
		return nil, fmt.Errorf("decode a body that was checked: %w", err)
	}
	var errs api.Errors
	if env.Kind != "" && env.Kind != k.info.Name {
		errs.Addf("kind", "want %s, or nothing", k.info.Name)
	}
	if name != "" {
		if env.Meta.Name != "" && env.Meta.Name != name {
			errs.Addf("meta.name", "the path says %s: want the same, or nothing", name)
		}
		if env.Meta.Namespace != "" && env.Meta.Namespace != namespace {
			errs.Addf("meta.namespace", "the path says %s: want the same, or nothing", namespace)
		}
		env.Meta.Name, env.Meta.Namespace = name, namespace
	}
	if errs != nil {
		return nil, invalid(k.ref(env.Meta.Namespace, env.Meta.Name), errs)
	}
	return &incoming{kind: k, meta: env.Meta, spec: env.Spec, status: env.Status}, nil
}

// openSpec reads an object for a write of its spec, and validates it.
func openSpec(k *kind, namespace, name string, raw []byte) (*incoming, error) {
	in, err := open(k, namespace, name, raw, strict)
	if err != nil {
		return nil, err
	}
	if len(in.spec) == 0 || string(in.spec) == "null" {
		in.spec = json.RawMessage("{}")
	}
	if errs := strict(in.spec, k.info.Spec, "spec"); errs != nil {
		return nil, invalid(in.ref(), errs)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, in.spec); err != nil {
		return nil, fmt.Errorf("compact a spec that was checked: %w", err)
	}
	in.spec = compact.Bytes()
	o := &object{kind: k, meta: in.meta, spec: in.spec}
	if in.typed, err = o.view(); err != nil {
		return nil, err
	}
	if err := k.Check(in.typed); err != nil {
		var errs api.Errors
		errs.Add("", err)
		return nil, invalid(in.ref(), errs)
	}
	return in, nil
}

// putSpec creates the object, or replaces its spec and labels.
func (t *txn) putSpec(in *incoming, pre precondition) (o *object, created bool, err error) {
	ref := in.ref()
	if err := t.roomFor(ref); err != nil {
		return nil, false, err
	}
	old := t.read(in.kind.key(ref.Namespace, ref.Name))
	switch {
	case old == nil && pre.generation != 0:
		return nil, false, t.s.missing(t.snap, ref)
	case old == nil && in.meta.UID != "" && !pre.absent:
		return nil, false, conflict(api.NotFound, ref, "was deleted since it was read; to create it anew, leave meta.uid out")
	case old == nil:
		o, err = t.create(in)
		return o, true, err
	case t.by.requestID != "" && old.meta.WriteID == t.by.requestID && old.meta.Revision != 0:
		return old, false, nil // this very request was here before, its answer got lost
	case pre.absent && !old.meta.Deleting():
		return nil, false, conflict(api.Conflict, ref, "already exists: %s", lastWrite(old))
	case in.meta.UID != "" && in.meta.UID != old.meta.UID:
		return nil, false, conflict(api.Precondition, ref, "was deleted and created again since it was read: %s", lastWrite(old))
	case pre.generation != 0 && pre.generation != old.meta.Generation:
		return nil, false, conflict(api.Precondition, ref, "changed since it was read: it is at generation %d, not %d; %s", old.meta.Generation, pre.generation, lastWrite(old))
	case old.meta.Deleting():
		return nil, false, conflict(api.Conflict, ref, "is being deleted since %s: wait until it is gone", stamp(*old.meta.DeletedAt))
	}
	o, err = t.replace(old, in)
	return o, false, err
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func lastWrite(o *object) string {
	return fmt.Sprintf("last written by %s on %s", o.meta.WrittenBy, stamp(o.meta.WrittenAt))
}

// newUID returns a name that was never used before.
func newUID() string { return strings.ToLower(rand.Text()) }

func (t *txn) create(in *incoming) (*object, error) {
	ref := in.ref()
	if in.kind.namespaced() {
		ns := t.read(t.s.kinds["namespaces"].key("", ref.Namespace))
		if ns == nil {
			return nil, noNamespace(ref)
		}
		if ns.meta.Deleting() {
			return nil, conflict(api.Conflict, ref, "namespace %s is being deleted since %s: wait until it is gone, then create it again", ref.Namespace, stamp(*ns.meta.DeletedAt))
		}
	}
	in, err := t.contain(nil, in)
	if err != nil {
		return nil, err
	}
	o := &object{key: in.kind.key(ref.Namespace, ref.Name), kind: in.kind, spec: in.spec, meta: api.Meta{
		Name: ref.Name, Namespace: ref.Namespace, UID: newUID(),
		Labels: in.meta.Labels, Owner: in.meta.Owner, Generation: 1, CreatedAt: t.now,
	}}
	t.sign(o)
	if err := t.settle(nil, o, in); err != nil {
		return nil, err
	}
	if pod, ok := in.typed.(*api.Pod); ok {
		o.known = pod
	}
	t.put(o)
	return o, nil
}

func (t *txn) replace(old *object, in *incoming) (*object, error) {
	in, err := t.contain(old, in)
	if err != nil {
		return nil, err
	}
	o := old.with()
	o.meta.Labels = in.meta.Labels
	if in.meta.Owner != nil {
		o.meta.Owner = in.meta.Owner
	}
	asked := in.rollout != 0 || in.anew // for other images, though the spec may be the same
	same := sameJSON(old.spec, in.spec) && !asked
	if same && maps.Equal(old.meta.Labels, o.meta.Labels) && (in.meta.Owner == nil || old.meta.Owner != nil && *old.meta.Owner == *o.meta.Owner) {
		return old, nil
	}
	t.sign(o)
	if !same {
		o.spec = in.spec
		o.meta.Generation++
		if err := t.settle(old, o, in); err != nil {
			return nil, err
		}
		if asked && sameJSON(old.spec, o.spec) && sameJSON(old.effective, o.effective) {
			return old, nil // what is asked for is what there is
		}
	}
	t.put(o)
	return o, nil
}

// sign records who writes the spec.
func (t *txn) sign(o *object) {
	o.meta.WrittenBy, o.meta.WrittenAt, o.meta.WriteID = t.by.String(), t.now, t.by.requestID
	if program, _, _ := strings.Cut(t.by.program, " "); program != "" {
		o.meta.WrittenBy += " (" + program[:min(len(program), 64)] + ")"
	}
}

// settle fixes what a new spec means: defaults, and what the cluster grants.
func (t *txn) settle(old, o *object, in *incoming) error {
	typed := in.typed
	o.kind.Default(typed)
	err := t.applyDefaults(o, typed)
	if err == nil {
		err = t.pin(old, in)
	}
	if err != nil {
		return err
	}
	switch v := typed.(type) {
	case *api.App:
		err = t.checkPowers(v.Ref(), v.Effective.Template())
	case *api.Job:
		err = t.checkPowers(v.Ref(), v.Effective.PodTemplate)
	case *api.Volume:
		err = t.checkVolume(old, v)
	case *api.Service:
		if err = t.checkNodePorts(v); err == nil {
			err = t.allocService(old, v)
		}
	case *api.Node:
		err = t.allocNode(old, v)
	case *api.Role:
		err = t.checkRole(v)
	case *api.Token:
		err = t.checkToken(old, v)
	case *api.Pod:
		if t.by.Role == RoleUser { // the loops pass on what was allowed
			err = t.checkPowers(v.Ref(), v.Spec.PodTemplate)
		}
		if err == nil {
			err = t.checkPlacement(old, o, v)
		}
		if err == nil && old == nil {
			if err = t.checkContents(v); err == nil {
				err = t.chargePod(o, v)
			}
		}
	}
	if err == nil {
		err = t.chargeSpec(old, o, typed)
	}
	if err == nil && !o.kind.info.Derived {
		o.effective = section(typed, "Effective")
	}
	return err
}

// servePut answers PUT of an object.
func (s *Server) servePut(w http.ResponseWriter, r *request) error {
	verb := api.VerbWrite
	if r.flag("dry_run") {
		verb = api.VerbPlan
	}
	if err := allow(r.by, r.to(verb, nil)); err != nil {
		return err
	}
	if _, err := r.key(); err != nil {
		return err
	}
	pre, err := r.precondition()
	if err != nil {
		return err
	}
	raw, err := readBody(w, r, api.MaxObject)
	if err != nil {
		return err
	}
	in, err := openSpec(r.kind, r.PathValue("namespace"), r.PathValue("name"), raw)
	if err != nil {
		return err
	}
	if v := r.URL.Query().Get("rollout"); v != "" {
		if in.rollout, err = strconv.ParseInt(v, 10, 64); err != nil || in.rollout <= 0 {
			return api.Errorf(api.BadRequest, "rollout: want the number of one of the app's history")
		}
	}
	switch v := r.URL.Query().Get("images"); v {
	case "", "anew":
		in.anew = v != ""
	default:
		return api.Errorf(api.BadRequest, "images: want anew, to have their digests found again, or nothing")
	}
	return s.write(w, r, func(t *txn) (*object, int, error) {
		o, created, err := t.putSpec(in, pre)
		if created {
			return o, http.StatusCreated, err
		}
		return o, http.StatusOK, err
	})
}

// precondition reads If-None-Match: * and If-Match: <generation>.
func (r *request) precondition() (pre precondition, err error) {
	if v := r.Header.Get("If-None-Match"); v != "" {
		if v != "*" {
			return pre, api.Errorf(api.BadRequest, "If-None-Match: want *, to create only")
		}
		pre.absent = true
	}
	if v := strings.Trim(r.Header.Get("If-Match"), `"`); v != "" {
		if pre.generation, err = strconv.ParseInt(v, 10, 64); err != nil || pre.generation <= 0 {
			return pre, api.Errorf(api.BadRequest, "If-Match: want the generation the object had when it was read")
		}
	}
	return pre, nil
}

// write commits what plan stages, or only tries with ?dry_run=true, and
// answers with the object.
func (s *Server) write(w http.ResponseWriter, r *request, plan func(*txn) (*object, int, error)) error {
	var out *object
	var code int
	commit := s.commit
	if r.flag("dry_run") {
		commit = s.dryRun
	}
	once := r.once()
	revision, err := commit(r.Context(), r.by, func(t *txn) error {
		return once.do(t, func() (d done, err error) {
			if out, code, err = plan(t); err != nil {
				return d, err
			}
			value, written := t.writes[out.key]
			return done{Key: out.key, Code: code, Delete: written && value == nil}, nil
		})
	})
	if err == nil && once.before != nil {
		code, revision, out, err = s.answered(r.Context(), once)
	}
	if err != nil {
		return err
	}
	body := out.body
	if out.meta.Revision == 0 { // it was staged, not only read, and by now is the cache's
		written := *out
		written.meta.Revision = revision
		body = written.encode()
	}
	w.Header().Set("ETag", `"`+strconv.FormatInt(out.meta.Generation, 10)+`"`)
	answer(w, code, revision, body)
	return nil
}

package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// root is the prefix of every key: one watch on it feeds the cache.
const root = "/c/"

// Keys that hold no objects: see alloc.go, bind.go, leader.go, removed.go.
const (
	allocPrefix = root + ".alloc/"
	guardPrefix = root + ".guard/"
	fenceKey    = root + ".fence"
)

// kind is one entry of the table that drives routes, access and storage.
type kind struct {
	api.AnyKind
	info   api.Info
	listed atomic.Int64 // how many objects lists bring
}

// kindTable returns the table by plural.
func kindTable() map[string]*kind {
	m := map[string]*kind{}
	for _, k := range api.Kinds {
		m[k.Info().Plural] = &kind{AnyKind: k, info: k.Info()}
	}
	return m
}

func (k *kind) namespaced() bool { return k.info.Scope == api.Namespaced }

func (k *kind) ref(namespace, name string) api.Ref {
	return api.Ref{Kind: k.info.Name, Namespace: namespace, Name: name}
}

// prefix returns where the keys of a namespace's objects begin, or of all.
func (k *kind) prefix(namespace string) string {
	p := root + k.info.Plural + "/"
	if namespace != "" {
		p += namespace + "/"
	}
	return p
}

func (k *kind) key(namespace, name string) string { return k.prefix(namespace) + name }

// load is what a pod takes from its node; ended pods take nothing.
type load struct {
	cpu, memory int64
	pods        int
}

func (l load) plus(m load) load { return load{l.cpu + m.cpu, l.memory + m.memory, l.pods + m.pods} }
func (l load) minus(m load) load {
	return load{l.cpu - m.cpu, l.memory - m.memory, l.pods - m.pods}
}

// object is one value of the store. It is immutable. Sections stay bytes, as
// their writers wrote them: a server cannot drop a field it does not know.
type object struct {
	key   string
	kind  *kind    // nil for keys that hold no object
	value []byte   // of keys that hold no object, and of what is to be written
	meta  api.Meta // Revision is set

	spec, effective, status json.RawMessage

	body  []byte          // as served
	index []string        // names of the kind's indexes that have it, "" where none has; nil of what is to be written
	load  load            // of pods
	uses  []api.VolumeUse // of pods that have not ended
	ports []api.Port      // of its node, that a pod takes for itself

	node  *api.Node // typed, of a node: each bind to it reads it
	known *api.Pod  // typed and shared, of a pod that this server wrote or is to write; may be nil

	charge  api.Charge // of its namespace's quota, for what it declares
	elastic bool       // its pods may be more than that
}

// envelope is the outside of an object, as it is sent and as it is stored. In
// the store its meta has no revision: the store has.
type envelope struct {
	Kind      string          `json:"kind"`
	Meta      api.Meta        `json:"meta"`
	Spec      json.RawMessage `json:"spec"`
	Effective json.RawMessage `json:"effective,omitempty"`
	Status    json.RawMessage `json:"status,omitempty"`
}

// decode makes an object of what the store has.
func (s *Server) decode(e store.Entry) (*object, error) {
	o := &object{key: e.Key, meta: api.Meta{Revision: e.Revision}}
	plural, _, _ := strings.Cut(strings.TrimPrefix(e.Key, root), "/")
	k := s.kinds[plural]
	if k == nil {
		o.value = e.Value
		return o, nil
	}
	var env envelope
	if err := wire.Unmarshal(e.Value, &env); err != nil {
		return nil, fmt.Errorf("decode %s: %w", e.Key, err)
	}
	o.kind, o.meta, o.spec, o.effective, o.status = k, env.Meta, env.Spec, env.Effective, env.Status
	o.meta.Revision = e.Revision
	stored := e.Value
	if env.Meta.Revision != 0 {
		stored = nil // it has another revision, not by our hand
	}
	o.seal(stored)
	return o, o.derive()
}

// seal renders the object as it is served: as it is stored, with its revision.
// Its sections are parts of that from then on: each byte is kept once.
func (o *object) seal(stored []byte) {
	rest, ok := bytes.CutPrefix(stored, o.head(0))
	if !ok || bytes.HasPrefix(rest, []byte("}")) || !o.keep(slices.Concat(o.head(o.meta.Revision), rest)) {
		o.keep(o.encode()) // not our hand, or that of a later version
	}
}

// head is how encode begins, until the first field of meta that is no revision.
func (o *object) head(revision int64) []byte {
	b := append([]byte(`{"kind":"`), o.kind.info.Name...)
	b = append(b, `","meta":{`...)
	if revision != 0 {
		b = append(strconv.AppendInt(append(b, `"revision":`...), revision, 10), ',')
	}
	return b
}

// keep makes body what is served, if its end is the object's sections as encode
// writes them.
func (o *object) keep(body []byte) bool {
	end := len(body) - len("}")
	for _, s := range []struct {
		section *json.RawMessage
		before  string
	}{{&o.status, `,"status":`}, {&o.effective, `,"effective":`}, {&o.spec, `,"spec":`}} {
		if len(*s.section) == 0 {
			continue
		}
		from := end - len(*s.section)
		if from < 0 || !bytes.Equal(body[from:end], *s.section) || !bytes.HasSuffix(body[:from], []byte(s.before)) {
			return false
		}
		*s.section = body[from:end:end]
		end = from - len(s.before)
	}
	o.body = body
	return true
}

// derive computes what the cache selects by. The object is complete otherwise.
func (o *object) derive() error {
	if len(o.kind.info.Indexes) == 0 && !takesQuota(o.kind) && o.kind.info.Name != api.Nodes.Name {
		return nil
	}
	typed, err := o.view()
	if err != nil {
		return err
	}
	o.deriveFrom(typed)
	return nil
}

func (o *object) deriveFrom(typed api.Any) {
	o.charge, o.elastic, _ = declaredCharge(typed)
	o.index = make([]string, len(o.kind.info.Indexes))
	for i, field := range o.kind.info.Indexes {
		if v := o.kind.Index(field, typed); v != "" {
			o.index[i] = indexName(o.kind, field, v)
		}
	}
	o.load, o.uses, o.ports = load{}, nil, nil
	if pod, ok := typed.(*api.Pod); ok && !pod.Status.Phase.Ended() {
		cpu, memory := pod.Spec.Requests()
		o.load, o.uses, o.ports = load{cpu, memory, 1}, pod.Spec.Uses(), pod.Spec.NodePorts()
	}
	o.node, _ = typed.(*api.Node)
}

// indexed returns the value of an index's field; "" if it has none, or was not
// derived.
func (o *object) indexed(field string) string {
	if i := slices.Index(o.kind.info.Indexes, field); i >= 0 && i < len(o.index) {
		return o.index[i][strings.LastIndexByte(o.index[i], 0)+1:]
	}
	return ""
}

// encode renders the object; meta.revision is left out when it is 0.
func (o *object) encode() []byte {
	stored := o.meta
	stored.Revision = 0
	meta, err := json.Marshal(stored)
	if err != nil {
		panic(err) // strings, numbers and times
	}
	b := make([]byte, 0, len(o.spec)+len(o.effective)+len(o.status)+len(meta)+100)
	b = append(append(b, o.head(o.meta.Revision)...), meta[len("{"):]...)
	b = append(b, `,"spec":`...)
	b = append(b, o.spec...)
	if len(o.effective) > 0 {
		b = append(append(b, `,"effective":`...), o.effective...)
	}
	if len(o.status) > 0 {
		b = append(append(b, `,"status":`...), o.status...)
	}
	return append(b, '}')
}

// typed returns the object as its Go type. Fields it does not know are left out.
func (o *object) typed() (api.Any, error) {
	t, raw := o.kind.New(), o.body
	if raw == nil {
		raw = o.encode()
	}
	if err := wire.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("decode %s: %w", o.ref(), err)
	}
	t.GetMeta().Revision = o.meta.Revision
	return t, nil
}

// shared returns the object as its Go type, for those who do not change it.
func (o *object) shared() (api.Any, error) {
	switch {
	case o.known != nil:
		return o.known, nil
	case o.node != nil:
		return o.node, nil
	}
	return o.view()
}

// view is typed with the object's own meta, which is read already: its labels
// must stay as they are.
func (o *object) view() (api.Any, error) {
	t := o.kind.New()
	*t.GetMeta() = o.meta
	for _, section := range []struct {
		raw  json.RawMessage
		into any
	}{{o.spec, t.GetSpec()}, {o.effective, t.GetEffective()}, {o.status, t.GetStatus()}} {
		if len(section.raw) == 0 {
			continue
		}
		if err := wire.Unmarshal(section.raw, section.into); err != nil {
			return nil, fmt.Errorf("decode %s: %w", o.ref(), err)
		}
	}
	return t, nil
}

func (o *object) ref() api.Ref { return o.kind.ref(o.meta.Namespace, o.meta.Name) }

// with returns a copy to change.
func (o *object) with() *object {
	c := *o
	c.body, c.index, c.node, c.known = nil, nil, nil, nil
	return &c
}

// section marshals the field of a typed object, such as Effective.
func section(typed api.Any, field string) json.RawMessage {
	return marshal(reflect.ValueOf(typed).Elem().FieldByName(field).Interface())
}

// marshal is json.Marshal without HTML escapes.
func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // every api type marshals
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// sameJSON reports whether two values mean the same: order of keys and white
// space do not count.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	da, db := json.NewDecoder(bytes.NewReader(a)), json.NewDecoder(bytes.NewReader(b))
	da.UseNumber()
	db.UseNumber()
	return da.Decode(&x) == nil && db.Decode(&y) == nil && reflect.DeepEqual(x, y)
}

package apiserver

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A write of a config or secret also writes its version, an object of kind
// Content, in the same transaction. The values of a secret go no further than
// this file: the spec that is stored has their hash in their place, and they lie
// sealed under a key of their own, which no route serves.

// sealedPrefix is where the sealed values of secrets are, by namespace and name
// of the version.
const sealedPrefix = root + ".sealed/"

func sealedName(namespace, version string) string { return namespace + "/" + version }

// contain keeps what a config or secret contains, and returns what is to be
// stored of it. old is the object before, or nil.
func (t *txn) contain(old *object, in *incoming) (*incoming, error) {
	switch v := in.typed.(type) {
	case *api.Config:
		of := "config/" + in.meta.Name
		c := api.ContentSpec{Of: of, Hash: api.ConfigHash(of, v.Spec.Data), Keys: slices.Sorted(maps.Keys(v.Spec.Data)), Data: v.Spec.Data}
		return in, t.keepVersion(in, c, nil)
	case *api.Secret:
		return t.conceal(old, in, v)
	}
	return in, nil
}

// conceal seals a secret's values and puts their hash into its spec.
func (t *txn) conceal(old *object, in *incoming, secret *api.Secret) (*incoming, error) {
	of, spec := "secret/"+in.meta.Name, secret.Spec
	before := spec.Hash
	if before == "" && old != nil {
		var was api.SecretSpec
		if err := json.Unmarshal(old.spec, &was); err != nil {
			return nil, fmt.Errorf("decode %s: %w", old.ref(), err)
		}
		before = was.Hash
	}
	base, values, err := t.version(in.meta.Namespace, of, before)
	if err != nil {
		return nil, err
	}
	if spec.Hash != "" && base == nil {
		return nil, invalid(in.ref(), api.Errors{{Path: "spec.hash", Message: "no version of that hash is kept: write data"}})
	}
	next := maps.Clone(spec.Data)
	if len(next) == 0 {
		next = map[string]string{}
		for k, v := range values {
			if _, made := base.Generate[k]; !made && spec.Hash != "" {
				next[k] = v
			}
		}
	}
	for k, g := range spec.Generate {
		if base != nil {
			if was, ok := base.Generate[k]; ok && was.Same(g) {
				next[k] = values[k]
				continue
			}
		}
		if next[k], err = generate(g); err != nil {
			return nil, err
		}
	}
	effective := api.Clone(spec).WithDefaults()
	name := of + "\x00" + string(marshal(effective.Generate))
	set, err := t.keys()
	if err != nil {
		return nil, err
	}
	c := api.ContentSpec{Of: of, Keys: slices.Sorted(maps.Keys(next)), Generate: spec.Generate,
		Hash: set.Secrets.Name(in.meta.Namespace+"/"+name, next)}
	if err := t.keepVersion(in, c, next); err != nil {
		return nil, err
	}
	stored := *in
	concealed := *secret
	concealed.Spec.Data, concealed.Spec.Hash = nil, c.Hash
	stored.typed, stored.spec = &concealed, marshal(concealed.Spec)
	return &stored, nil
}

// generate makes a value.
func generate(g api.Generate) (string, error) {
	chars := api.Charsets[g.Charset]
	if chars == "" {
		chars = api.Charsets["alnum"]
	}
	n := 32
	if g.Length != nil {
		n = *g.Length
	}
	b := make([]byte, n)
	for i := range b {
		j, err := rand.Int(rand.Reader, big.NewInt(int64(len(chars))))
		if err != nil {
			return "", fmt.Errorf("generate a value: %w", err)
		}
		b[i] = chars[j.Int64()]
	}
	return string(b), nil
}

// keepVersion stages the version of a config or secret, unless it is there.
func (t *txn) keepVersion(in *incoming, c api.ContentSpec, values map[string]string) error {
	k := t.s.kinds["contents"]
	ns, name := in.meta.Namespace, api.ContentName(c.Of, c.Hash)
	if t.read(k.key(ns, name)) != nil {
		return nil
	}
	owner := in.ref()
	o := &object{key: k.key(ns, name), kind: k, spec: marshal(c), meta: api.Meta{
		Name: name, Namespace: ns, UID: newUID(), Owner: &owner, Generation: 1, CreatedAt: t.now,
	}}
	t.sign(o)
	t.put(o)
	if values != nil {
		key := sealedPrefix + sealedName(ns, name)
		t.read(key)
		set, err := t.keys()
		if err != nil {
			return err
		}
		t.set(key, set.Secrets.Seal(sealedName(ns, name), marshal(values)))
	}
	return nil
}

// version returns a version and the values it has; nil if it is not kept.
func (t *txn) version(namespace, of, hash string) (*api.ContentSpec, map[string]string, error) {
	if hash == "" {
		return nil, nil, nil
	}
	name := api.ContentName(of, hash)
	o := t.read(t.s.kinds["contents"].key(namespace, name))
	if o == nil {
		return nil, nil, nil
	}
	return t.s.reveal(t.peek(keysKey), o, t.peek(sealedPrefix+sealedName(namespace, name)))
}

// reveal opens a version: its text, or with the cluster's keys its sealed values.
func (s *Server) reveal(holder, o, sealed *object) (*api.ContentSpec, map[string]string, error) {
	var c api.ContentSpec
	if err := json.Unmarshal(o.spec, &c); err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", o.ref(), err)
	}
	if sealed == nil {
		return &c, c.Data, nil
	}
	set, err := s.openKeys(holder)
	if err != nil {
		return nil, nil, err
	}
	plain, err := set.Secrets.Open(sealedName(o.meta.Namespace, o.meta.Name), sealed.value)
	if err != nil {
		return nil, nil, err
	}
	values := map[string]string{}
	if json.Unmarshal(plain, &values) != nil {
		return nil, nil, fmt.Errorf("%s: its values are damaged", o.ref()) // the error would show them
	}
	return &c, values, nil
}

// checkContents demands that the versions a new pod is made of are kept: the
// transaction fails if one goes meanwhile.
func (t *txn) checkContents(pod *api.Pod) error {
	for of, hash := range pod.Spec.Contents {
		if t.read(t.s.kinds["contents"].key(pod.Meta.Namespace, api.ContentName(of, hash))) == nil {
			return conflict(api.Precondition, pod.Ref(), "version %s of %s is not kept any more", hash, of)
		}
	}
	return nil
}

// serveVersion answers GET …/configs/{name}/versions/{hash}, and likewise of
// secrets.
func (s *Server) serveVersion(w http.ResponseWriter, r *request) error {
	if _, err := r.key(); err != nil {
		return err
	}
	snap, err := s.latest(r) // a pod that was just taken away counts no more
	if err != nil {
		return err
	}
	ns, hash := r.PathValue("namespace"), r.PathValue("hash")
	of := strings.ToLower(r.kind.info.Name) + "/" + r.PathValue("name")
	if err := s.allowVersion(r.by, snap, r.kind, ns, of, hash); err != nil {
		return err
	}
	name := api.ContentName(of, hash)
	o := snap.get(s.kinds["contents"].key(ns, name))
	if o == nil {
		return conflict(api.NotFound, r.ref(), "no version %s is kept", hash)
	}
	_, values, err := s.reveal(snap.get(keysKey), o, snap.get(sealedPrefix+sealedName(ns, name)))
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, http.StatusOK, snap.revision, marshal(api.ContentVersion{Hash: hash, Data: values}))
	return nil
}

// resealed is how many versions one transaction seals anew.
const resealed = 50

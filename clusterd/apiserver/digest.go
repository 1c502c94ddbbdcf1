package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// A workload's images get their digests when its spec is written. A reference
// that stays as it was keeps the digest it has, so nothing rolls because a tag
// moved, unless the write asks for its images anew; one that is new has, in this order, what a plan of this very object
// found, what was loaded by hand, and what its registry says. Registries are
// asked between two attempts of a transaction, never within one: an attempt
// that lacks a digest gives up and says which. An image whose digest nobody
// knows goes without: its nodes find one each.

// Registry finds the digests of images. The composition root hands it in.
type Registry interface {
	// Digest asks the registry of an image, as whoever the credentials say. The
	// error is for people, and tells no credentials.
	Digest(ctx context.Context, reference, username, password string) (string, error)
}

const (
	// digestWait is how long a write waits for registries, all together.
	digestWait = 2500 * time.Millisecond
	// digestsAtOnce is how many of them are asked at a time.
	digestsAtOnce = 16
	// plannedKept is how long what a plan found is kept for the write.
	plannedKept = 24 * time.Hour
	// mostPlanned is how many plans that were not followed are kept.
	mostPlanned = 5000
)

// plannedPrefix is where the digests lie that plans found, by kind, namespace and name.
const plannedPrefix = root + ".planned/"

// plannedImages are what a plan found.
type plannedImages struct {
	At     time.Time         `json:"at"`
	Images map[string]string `json:"images"`
}

// question is an image whose digest somebody has to find.
type question struct{ namespace, auth, reference string }

// finding is what came of a question.
type finding struct {
	digest string
	why    string // there is none
}

type findings map[question]finding

// pinning is what a transaction knows of the digests it needs.
type pinning struct {
	known findings
	lacks []question
	// off: what is planned is not going to be written.
	off bool

	at     time.Time         // since when what is found is planned
	found  map[string]string // by reference, what no image of the object had before
	moved  map[string]string // by reference, of what was planned before: what it is now
	absent map[string]string // by reference, why there is none
}

// errLacking ends an attempt of a transaction that lacks digests.
var errLacking = errors.New("digests of images are not known yet")

// pin puts digests at the images of a workload. old is the object before, or nil.
func (t *txn) pin(old *object, in *incoming) error {
	switch v := in.typed.(type) {
	case *api.App:
		images, err := t.digests(old, in, v.Effective.Template())
		v.Effective = v.Effective.Pinned(images)
		return err
	case *api.Job:
		images, err := t.digests(old, in, v.Effective.PodTemplate)
		v.Effective = v.Effective.Pinned(images)
		return err
	}
	return nil
}

// digests finds the digests of a workload's images.
func (t *txn) digests(old *object, in *incoming, effective api.PodTemplate) (map[string]string, error) {
	floating := effective.Floating()
	switch {
	case in.rollout != 0:
		return t.ofRollout(old, in)
	case len(floating) == 0:
		return nil, nil
	}
	images, had := map[string]string{}, map[string]bool{}
	if old != nil && !in.anew {
		declared, was, err := templatesOf(old)
		if err != nil {
			return nil, err
		}
		images = api.DigestsOf(declared, was)
		for _, ref := range was.Floating() {
			had[ref] = true
		}
		// What had none goes on without until its pods are replaced anyway.
		anew := func(ref string) bool { return images[ref] == "" && !had[ref] }
		if !slices.ContainsFunc(floating, anew) && sameJSON(marshal(was), marshal(effective.Pinned(images))) {
			return images, nil
		}
	}
	var plan plannedImages
	if !in.anew {
		var err error
		if plan, err = t.takePlanned(in.ref()); err != nil {
			return nil, err
		}
	}
	p := &t.images
	p.at, p.found, p.moved, p.absent = t.now, map[string]string{}, map[string]string{}, map[string]string{}
	for _, ref := range floating {
		if images[ref] != "" {
			continue
		}
		a := t.digest(question{in.ref().Namespace, effective.PullAuth, ref}, effective.Pull)
		switch was := plan.Images[ref]; {
		case was != "":
			images[ref], p.found[ref], p.at = was, was, plan.At
			if a.digest != "" && a.digest != was {
				p.moved[ref] = a.digest
			}
		case a.digest != "":
			images[ref], p.found[ref] = a.digest, a.digest
		case a.why != "":
			p.absent[ref] = a.why
		}
	}
	if len(p.lacks) > 0 {
		return nil, errLacking
	}
	if in.anew && len(p.found) < len(floating) {
		return nil, unknownNow(in.ref(), floating, p)
	}
	return images, nil
}

// unknownNow says that images were to be found anew and nobody knows them: what
// runs is not given up for that.
func unknownNow(ref api.Ref, floating []string, p *pinning) error {
	i := slices.IndexFunc(floating, func(ref string) bool { return p.found[ref] == "" })
	why := cmp.Or(p.absent[floating[i]], "its nodes find it for themselves")
	return conflict(api.Precondition, ref, "the cluster cannot tell what image %s is now: %s", floating[i], why)
}

// ofRollout returns the digests of an earlier rollout that is put back.
func (t *txn) ofRollout(old *object, in *incoming) (map[string]string, error) {
	if old != nil {
		before, err := old.typed()
		if err != nil {
			return nil, err
		}
		if app, ok := before.(*api.App); ok {
			for _, r := range append([]api.Rollout{app.Status.Rollout}, app.Status.History...) {
				if r.Number == in.rollout {
					return r.Images, nil
				}
			}
		}
	}
	return nil, conflict(api.Precondition, in.ref(), "its history has no rollout %d", in.rollout)
}

// digest answers a question from what was loaded by hand, or from what the
// registry said since the transaction began. Otherwise it notes the question.
func (t *txn) digest(q question, pull string) (a finding) {
	if r, err := api.ParseImage(q.reference); err == nil {
		if o := t.peek(t.s.kinds["images"].key("", api.ImageName(r.String()))); o != nil {
			var have api.ImageSpec
			if json.Unmarshal(o.spec, &have) == nil && have.Reference == r.String() && len(have.Nodes) > 0 {
				return finding{digest: have.Digest}
			}
		}
	}
	if t.s.cfg.Registry == nil || t.images.off || pull == api.PullNever {
		return a
	}
	a, known := t.images.known[q]
	if !known && !slices.Contains(t.images.lacks, q) {
		t.images.lacks = append(t.images.lacks, q)
	}
	return a
}

// templatesOf returns what a workload declares, and what that means.
func templatesOf(o *object) (declared, effective api.PodTemplate, err error) {
	typed, err := o.typed()
	if err != nil {
		return declared, effective, err
	}
	switch v := typed.(type) {
	case *api.App:
		return v.Spec.Template(), v.Effective.Template(), nil
	case *api.Job:
		return v.Spec.PodTemplate, v.Effective.PodTemplate, nil
	}
	return declared, effective, nil
}

func plannedKey(ref api.Ref) string {
	return plannedPrefix + strings.ToLower(ref.Kind) + "/" + ref.Namespace + "/" + ref.Name
}

// takePlanned takes what the last plan of an object found: this write is what
// the plan was for.
func (t *txn) takePlanned(ref api.Ref) (p plannedImages, err error) {
	key := plannedKey(ref)
	o := t.read(key)
	if o == nil {
		return p, nil
	}
	if err := json.Unmarshal(o.value, &p); err != nil {
		return p, fmt.Errorf("decode %s: %w", key, err)
	}
	t.remove(key)
	if t.now.Sub(p.At) > plannedKept {
		return plannedImages{}, nil
	}
	return p, nil
}

// keepPlanned keeps what a plan found for the write that follows it.
func (s *Server) keepPlanned(ctx context.Context, by caller, ref api.Ref, p plannedImages) error {
	if len(p.Images) == 0 {
		return nil
	}
	_, err := s.commit(ctx, by, func(t *txn) error {
		key, value := plannedKey(ref), marshal(p)
		if o := t.read(key); o != nil && sameJSON(o.value, value) {
			return nil
		}
		t.set(key, value)
		t.forgetPlanned()
		return nil
	})
	return err
}

// forgetPlanned removes what no write came for: now and then, what is too old,
// and the oldest of too many.
func (t *txn) forgetPlanned() {
	const every, most = 64, 100
	if t.s.plans.Add(1)%every != 1 {
		return
	}
	type plan struct {
		key string
		at  time.Time
	}
	var all []plan
	t.snap.each(plannedPrefix, "", func(o *object) bool {
		var p plannedImages
		_ = json.Unmarshal(o.value, &p) // what is damaged is the oldest
		all = append(all, plan{o.key, p.At})
		return true
	})
	slices.SortFunc(all, func(a, b plan) int { return a.at.Compare(b.at) })
	for i, p := range all {
		if i == most || t.now.Sub(p.at) <= plannedKept && len(all)-i <= mostPlanned {
			return
		}
		if _, mine := t.writes[p.key]; !mine {
			t.read(p.key)
			t.remove(p.key)
		}
	}
}

// askRegistries asks for what a transaction lacks, and returns all that is known
// then. What nobody answers in time is known, too: to be unknown.
func (s *Server) askRegistries(ctx context.Context, t *txn) findings {
	ctx, cancel := context.WithTimeout(ctx, digestWait)
	defer cancel()
	known := findings{}
	maps.Copy(known, t.images.known)
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, digestsAtOnce)
	for _, q := range t.images.lacks {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a := s.askOne(ctx, t.snap, q)
			mu.Lock()
			defer mu.Unlock()
			known[q] = a
		})
	}
	wg.Wait()
	return known
}

func (s *Server) askOne(ctx context.Context, snap *snapshot, q question) finding {
	username, password, err := s.pullAuth(snap, q)
	if err != nil {
		return finding{why: err.Error()}
	}
	digest, err := s.cfg.Registry.Digest(ctx, q.reference, username, password)
	if err != nil {
		return finding{why: err.Error()}
	}
	return finding{digest: digest}
}

// pullAuth opens the secret by which a namespace's nodes fetch an image.
func (s *Server) pullAuth(snap *snapshot, q question) (username, password string, err error) {
	if q.auth == "" {
		return "", "", nil
	}
	o := snap.get(s.kinds["secrets"].key(q.namespace, q.auth))
	if o == nil {
		return "", "", fmt.Errorf("secret %s, its pull_auth, does not exist", q.auth)
	}
	var secret api.SecretSpec
	if err := json.Unmarshal(o.spec, &secret); err != nil {
		return "", "", fmt.Errorf("decode %s: %w", o.ref(), err)
	}
	name := api.ContentName("secret/"+q.auth, secret.Hash)
	version := snap.get(s.kinds["contents"].key(q.namespace, name))
	if version == nil {
		return "", "", fmt.Errorf("secret %s, its pull_auth, has no values yet", q.auth)
	}
	_, values, err := s.reveal(snap.get(keysKey), version, snap.get(sealedPrefix+sealedName(q.namespace, name)))
	return values["username"], values["password"], err
}

// planImages keeps what a plan found for the write, and says it.
func (s *Server) planImages(ctx context.Context, by caller, o *object, images pinning, p *writePlan) error {
	if err := s.keepPlanned(ctx, by, o.ref(), plannedImages{images.at, images.found}); err != nil {
		return fmt.Errorf("keep the digests of %s: %w", o.ref(), err)
	}
	declared, effective, err := templatesOf(o)
	if err != nil {
		return err
	}
	p.Images = api.DigestsOf(declared, effective)
	p.warnOfImages(declared, images)
	return nil
}

// warnOfImages tells of images whose digest nobody knows, and of those that
// mean something else by now than when they were planned.
func (p *writePlan) warnOfImages(declared api.PodTemplate, images pinning) {
	for _, at := range declared.ImagePaths() {
		if why := images.absent[at.Reference]; why != "" {
			p.Warnings = append(p.Warnings, api.PlanWarning{Path: "spec." + at.Path, Summary: "No digest for image " + at.Reference,
				Message: fmt.Sprintf("The cluster cannot tell which image it is: %s. Each node asks for itself when it starts pods; if the tag moves meanwhile, they run different images.", why)})
		}
		if now := images.moved[at.Reference]; now != "" {
			p.Warnings = append(p.Warnings, api.PlanWarning{Path: "spec." + at.Path, Summary: "Image " + at.Reference + " has changed since it was planned",
				Message: fmt.Sprintf("A write until %s gets what was planned, %s. For what it is now, declare %s@%s.", stamp(images.at.Add(plannedKept)), images.found[at.Reference], at.Reference, now)})
		}
	}
}

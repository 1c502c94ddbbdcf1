package apiserver

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Bounds of what a watch may lag behind: where it may start, and how much may
// wait for its client.
const (
	keepChanges = 8192
	maxPending  = 4096
)

// quietRounds is after how many rounds a quiet watch over a network is told that
// nothing was missed.
const quietRounds = 6

// change is one object before and after; nil is absence.
type change struct {
	revision int64
	old, new *object
}

// hub hands changes to watchers. A change costs as much as it has interested
// watchers: they are found by kind, or by one index value.
type hub struct {
	keep int // changes in the ring
	most int // changes that wait for one watcher

	mu       sync.Mutex
	revision int64 // everything up to here is in the ring or older
	oldest   int64 // changes after this revision are all in the ring
	ring     []change
	watchers map[string]map[*watcher]struct{}
}

// selector is what a list or watch wants to see.
type selector struct {
	kind      *kind
	namespace string
	labels    map[string]string
	fields    map[string]string // by index
}

// label parses one label filter: k=v.
func (s *selector) label(filter string) bool {
	k, v, ok := strings.Cut(filter, "=")
	if ok && k != "" {
		s.labels[k] = v
	}
	return ok && k != ""
}

func (s *selector) matches(o *object) bool {
	if o == nil || o.kind != s.kind || s.namespace != "" && o.meta.Namespace != s.namespace {
		return false
	}
	for k, v := range s.labels {
		if have, ok := o.meta.Labels[k]; !ok || have != v {
			return false
		}
	}
	for k, v := range s.fields {
		if o.indexed(k) != v {
			return false
		}
	}
	return true
}

// topic is where a watcher of s is found: its kind, or one of its index values.
func (s *selector) topic() string {
	if len(s.fields) > 0 {
		field := slices.Sorted(maps.Keys(s.fields))[0]
		return indexName(s.kind, field, s.fields[field])
	}
	return s.kind.info.Plural
}

// event is one line of a watch.
type event struct {
	kind     api.EventType
	revision int64
	object   *object
}

// see returns what c is to a watcher: an object that leaves the selection is
// deleted as far as the watcher can tell.
func (s *selector) see(c change) (event, bool) {
	was, is := s.matches(c.old), s.matches(c.new)
	switch {
	case is:
		return event{api.EventPut, c.revision, c.new}, true
	case was:
		return event{api.EventDelete, c.revision, c.old}, true
	}
	return event{}, false
}

// watcher collects the changes of one watch.
type watcher struct {
	selector
	hub     *hub
	wake    chan struct{} // has a token when take would return something
	pending []event
	cut     bool
	eager   bool  // it wants a bookmark each round
	due     bool  // it is to be told how far this is
	said    int64 // how far it was told that this is …
	quiet   int   // … so many rounds ago
}

// watch registers a watcher for all changes after from; false if they are gone.
func (h *hub) watch(s selector, from int64, eager bool) (*watcher, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if from < h.oldest {
		return nil, false
	}
	w := &watcher{selector: s, hub: h, wake: make(chan struct{}, 1), eager: eager, due: true}
	first, _ := slices.BinarySearchFunc(h.ring, from+1, func(c change, revision int64) int { return cmp.Compare(c.revision, revision) })
	for _, c := range h.ring[first:] {
		w.see(c)
	}
	topic := s.topic()
	if h.watchers[topic] == nil {
		h.watchers[topic] = map[*watcher]struct{}{}
	}
	h.watchers[topic][w] = struct{}{}
	return w, true
}

// see queues c if the watcher wants it. The caller holds the hub's lock.
func (w *watcher) see(c change) {
	ev, ok := w.selector.see(c)
	if !ok || w.cut {
		return
	}
	if w.pending = append(w.pending, ev); len(w.pending) > w.hub.most {
		w.pending, w.cut = nil, true
	}
	w.poke()
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns what has happened since the last call, up to revision, and whether
// a bookmark has to say so: what one transaction changed is told in full only
// with it. Once cut, a watcher has missed changes.
func (w *watcher) take() (events []event, revision int64, bookmark, cut bool) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	events, w.pending = w.pending, nil
	if bookmark = w.due || len(events) > 0; bookmark {
		w.due, w.said, w.quiet = false, w.hub.revision, 0
	}
	return events, w.hub.revision, bookmark, w.cut
}

// round gives those a bookmark that need one. Loops of this process wait for
// what they know to be as new as their writes. Over a network it only keeps a
// quiet watch one that can be taken up: that needs one when much has changed, or
// for once in quietRounds.
func (h *hub) round() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ws := range h.watchers {
		for w := range ws {
			if w.quiet++; w.eager || w.quiet >= quietRounds || h.revision-w.said > int64(h.keep/4) {
				w.due = true
				w.poke()
			}
		}
	}
}

// close unregisters the watcher.
func (w *watcher) close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	topic := w.topic()
	delete(w.hub.watchers[topic], w)
	if len(w.hub.watchers[topic]) == 0 {
		delete(w.hub.watchers, topic)
	}
}

// publish hands out the changes of one batch, after show has made its snapshot
// visible: who watches from a snapshot's revision misses nothing.
func (h *hub) publish(revision int64, changes []change, show func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	show()
	h.revision = revision
	for _, c := range changes {
		h.ring = append(h.ring, c)
		for _, topic := range c.topics() {
			for w := range h.watchers[topic] { // each is at one topic
				w.see(c)
			}
		}
	}
	if len(h.ring) > 2*h.keep {
		cut := len(h.ring) - h.keep
		h.oldest = h.ring[cut-1].revision
		h.ring = slices.Clone(h.ring[cut:])
	}
}

// topics names where watchers interested in c may be registered.
func (c change) topics() []string {
	var out []string
	for _, o := range []*object{c.old, c.new} {
		if o == nil || o.kind == nil {
			continue
		}
		out = append(out, o.kind.info.Plural)
		for _, name := range o.index {
			if name != "" {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// reset begins anew at revision: what happened before cannot be told, so every
// watcher is cut.
func (h *hub) reset(revision int64, show func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	show()
	h.ring, h.revision, h.oldest = nil, revision, revision
	for _, ws := range h.watchers {
		for w := range ws {
			w.pending, w.cut = nil, true
			w.poke()
		}
	}
	if h.watchers == nil {
		h.watchers = map[string]map[*watcher]struct{}{}
	}
}

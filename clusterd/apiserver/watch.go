package apiserver

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

const (
	bookmarkEvery = 5 * time.Second
	// writeStall ends a watch whose client reads nothing for so long.
	writeStall = 30 * time.Second
)

// serveWatch streams changes as lines of JSON. With from=R it begins after
// revision R; without, it first puts every object there is. Deletions carry the
// object as it last was; a bookmark says that nothing up to its revision was
// missed. A watcher that falls behind gets an error of class gone: list again.
func (s *Server) serveWatch(w http.ResponseWriter, r *request, sel *selector) error {
	var from int64
	if f := r.URL.Query().Get("from"); f != "" {
		var err error
		if from, err = strconv.ParseInt(f, 10, 64); err != nil || from < 0 {
			return api.Errorf(api.BadRequest, "from: want the revision of a list")
		}
	}
	snap, err := s.latest(r)
	if err != nil {
		return err
	}
	var first []event
	if from == 0 {
		from = snap.revision
		snap.each(sel.kind.prefix(sel.namespace), "", func(o *object) bool {
			if sel.matches(o) {
				first = append(first, event{api.EventPut, o.meta.Revision, o})
			}
			return true
		})
	} else if from > snap.revision { // no server of this cluster ever said so: its state was replaced
		return api.Errorf(api.Gone, "revision %d is still to come, the store is at %d: list again", from, snap.revision)
	}
	watch, ok := s.cache.hub.watch(*sel, from)
	if !ok {
		return api.Errorf(api.Gone, "changes since revision %d are no longer kept: list again", from)
	}
	defer watch.close()
	r, stop := s.whileAllowed(r, sel.asked(r.by.Identity))
	defer stop()
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set(api.HeaderRevision, strconv.FormatInt(snap.revision, 10))
	rc := http.NewResponseController(w)
	tick := time.NewTicker(bookmarkEvery)
	defer tick.Stop()
	send := func(lines []byte) bool {
		rc.SetWriteDeadline(time.Now().Add(writeStall)) // not every writer has one
		_, err := w.Write(lines)
		return err == nil && rc.Flush() == nil
	}
	for bookmark := true; ; {
		events, revision, cut := watch.take()
		var b bytes.Buffer
		for _, ev := range append(first, events...) {
			writeEvent(&b, ev)
		}
		first = nil
		switch {
		case cut:
			writeError(&b, revision, api.Errorf(api.Gone, "this watch fell behind: list again"))
		case bookmark, len(events) > 0: // what one transaction changed is told in full only with it
			writeEvent(&b, event{kind: api.EventBookmark, revision: revision})
		}
		if b.Len() > 0 && !send(b.Bytes()) || cut {
			return nil
		}
		bookmark = false
		select {
		case <-watch.wake:
		case <-tick.C:
			bookmark = true
		case <-r.Context().Done():
			return nil
		case <-s.ended:
			return nil
		}
	}
}

func writeEvent(b *bytes.Buffer, ev event) {
	b.WriteString(`{"type":"`)
	b.WriteString(string(ev.kind))
	b.WriteString(`","revision":`)
	b.WriteString(strconv.FormatInt(ev.revision, 10))
	if ev.object != nil {
		b.WriteString(`,"object":`)
		b.Write(ev.object.body)
	}
	b.WriteString("}\n")
}

func writeError(b *bytes.Buffer, revision int64, e *api.Error) {
	e.Title = http.StatusText(int(e.Code))
	json.NewEncoder(b).Encode(map[string]any{"type": api.EventError, "revision": revision, "error": e})
}

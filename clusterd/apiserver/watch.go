package apiserver

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// writeStall ends a watch whose client reads nothing for so long.
const writeStall = 30 * time.Second

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
	taker, inProcess := w.(client.Taker)
	inProcess = inProcess && r.Header.Get("Accept") == client.AsTheyAre
	watch, ok := s.cache.hub.watch(*sel, from, inProcess)
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
	send := func(lines []byte) bool {
		rc.SetWriteDeadline(time.Now().Add(writeStall)) // not every writer has one
		_, err := w.Write(lines)
		if err == nil {
			err = rc.Flush()
		}
		rc.SetWriteDeadline(time.Time{}) // it would end the stream in the quiet after, too
		return err == nil
	}
	for {
		events, revision, bookmark, cut := watch.take()
		events, first = append(first, events...), nil
		var failed *api.Error
		if cut {
			failed = api.Errorf(api.Gone, "this watch fell behind: list again")
		} else if bookmark {
			events = append(events, event{kind: api.EventBookmark, revision: revision})
		}
		if inProcess {
			shown, err := show(events, revision, failed)
			if err != nil {
				s.log.Error("a watch in this process ends", "kind", sel.kind.info.Plural, "error", err)
				return nil
			}
			if len(shown) > 0 && taker.Take(shown) != nil {
				return nil
			}
		} else if b := render(events, revision, failed); len(b) > 0 && !send(b) {
			return nil
		}
		if cut {
			return nil
		}
		select {
		case <-watch.wake:
		case <-r.Context().Done():
			return nil
		case <-s.ended:
			return nil
		}
	}
}

// render says events as lines of JSON.
func render(events []event, revision int64, failed *api.Error) []byte {
	var b bytes.Buffer
	for _, ev := range events {
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
	if failed != nil {
		failed.Title = http.StatusText(int(failed.Code))
		json.NewEncoder(&b).Encode(map[string]any{"type": api.EventError, "revision": revision, "error": failed})
	}
	return b.Bytes()
}

// show is render for this process, which has most objects typed already.
func show(events []event, revision int64, failed *api.Error) ([]client.Shown, error) {
	out := make([]client.Shown, 0, len(events)+1)
	for _, ev := range events {
		s := client.Shown{Type: ev.kind, Revision: ev.revision}
		if ev.object != nil {
			var err error
			if s.Object, err = ev.object.shared(); err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	if failed != nil {
		out = append(out, client.Shown{Type: api.EventError, Revision: revision, Error: failed})
	}
	return out, nil
}

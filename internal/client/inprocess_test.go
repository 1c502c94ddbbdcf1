package client

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// watched collects what a watch of apps yields until it ends.
func watched(ctx context.Context, h http.HandlerFunc) (events []api.WatchEvent[*api.App], end error) {
	for ev, err := range Of(InProcess(h), api.Apps).Watch(ctx, "", nil, 1) {
		if err != nil {
			return events, err
		}
		events = append(events, ev)
	}
	return events, nil
}

// TestWatchInProcess: objects are handed over as they are. What a handler writes
// afterwards, such as an error, is for nobody, and holds nobody up.
func TestWatchInProcess(t *testing.T) {
	app := &api.App{Kind: "App", Meta: api.Meta{Namespace: "default", Name: "web", Revision: 3}}
	events, err := watched(t.Context(), func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") != AsTheyAre {
			t.Error("a watch asks for lines")
		}
		w.(Taker).Take([]Shown{{Type: api.EventPut, Revision: 3, Object: app}, {Type: api.EventBookmark, Revision: 3}})
		io.WriteString(w, "late")
	})
	if !api.Is(err, api.Unready) || len(events) != 2 || events[0].Object != app || events[1].Type != api.EventBookmark || events[1].Revision != 3 {
		t.Errorf("%+v, then %v", events, err)
	}
	_, err = watched(t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		w.(Taker).Take([]Shown{{Type: api.EventError, Revision: 3, Error: api.Errorf(api.Gone, "list again")}})
	})
	if !api.Is(err, api.Gone) {
		t.Errorf("after an error: %v", err)
	}
}

// TestWatchOfLines: a handler that knows nothing of it writes lines.
func TestWatchOfLines(t *testing.T) {
	events, err := watched(t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"type":"put","revision":3,"object":{"kind":"App","meta":{"name":"web"}}}`+"\n")
	})
	if !api.Is(err, api.Unready) || len(events) != 1 || events[0].Object.Meta.Name != "web" {
		t.Errorf("%+v, then %v", events, err)
	}
}

// TestWatchThatIsLeft: whoever no longer reads holds no handler up.
func TestWatchThatIsLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	_, err := watched(ctx, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if err := w.(Taker).Take([]Shown{{Type: api.EventBookmark, Revision: 3}}); err != nil {
				left <- err
				return
			}
			cancel()
		}
	})
	if <-left == nil || err == nil {
		t.Errorf("it ended with %v", err)
	}
}

//go:build linux

package containerd

import (
	"context"
	"fmt"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// marker is the topic of an event of our own, by which a subscription shows
// that it is in place.
const marker = "/clusterd/subscribed"

// Events yields changes until ctx or the connection ends. What happens after
// it has returned is not missed.
func (r *Runtime) Events(ctx context.Context) (<-chan runtime.Event, error) {
	if conn, ok := r.client.Conn().(interface{ ResetConnectBackoff() }); ok {
		conn.ResetConnectBackoff() // whoever asks again wants to know now
	}
	ctx, cancel := context.WithCancel(ctx)
	in, errs := r.client.Subscribe(ctx, "namespace=="+namespace+`,topic~="^/(tasks|containers|clusterd)/"`)
	out := make(chan runtime.Event)
	if err := r.subscribed(ctx, in, errs); err != nil {
		cancel()
		return nil, fmt.Errorf("subscribe to containerd's events: %w", err)
	}
	go func() {
		defer close(out)
		defer cancel()
		for {
			select {
			case e := <-in:
				id := containerOf(e)
				if id == "" {
					continue
				}
				select {
				case out <- runtime.Event{ID: id}:
				case <-ctx.Done():
					return
				}
			case <-errs:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// subscribed waits until the daemon has registered the subscription, which it
// does some time after it was asked to: a marker that comes back proves it.
func (r *Runtime) subscribed(ctx context.Context, in <-chan *events.Envelope, errs <-chan error) error {
	name := fmt.Sprintf("s%d", time.Now().UnixNano())
	for {
		if err := r.client.EventService().Publish(ctx, marker, &eventsapi.NamespaceUpdate{Name: name}); err != nil {
			return err
		}
		again := time.After(20 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case e := <-in:
				if v, err := typeurl.UnmarshalAny(e.Event); err == nil {
					if m, ok := v.(*eventsapi.NamespaceUpdate); ok && m.Name == name {
						return nil
					}
				}
			case err := <-errs:
				return err
			case <-ctx.Done():
				return ctx.Err()
			case <-again:
				waiting = false
			}
		}
	}
}

// containerOf is whom an event is about.
func containerOf(e *events.Envelope) string {
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return ""
	}
	switch v := v.(type) {
	case *eventsapi.TaskStart:
		return v.ContainerID
	case *eventsapi.TaskExit:
		if v.ID != v.ContainerID {
			return "" // an exec's
		}
		return v.ContainerID
	case *eventsapi.TaskDelete:
		return v.ContainerID
	case *eventsapi.ContainerCreate:
		return v.ID
	case *eventsapi.ContainerDelete:
		return v.ID
	}
	return ""
}

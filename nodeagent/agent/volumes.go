package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/pod"
)

// Storage keeps the node's volumes, and what its pods mount.
type Storage interface {
	pod.Storage
	// Resize makes a volume that is here as large as it should be, and returns
	// how large it is; 0 says that it is not here.
	Resize(ctx context.Context, v *api.Volume) (size int64, err error)
	// Remove removes the data of a deleted volume; one that is not here is not
	// an error.
	Remove(ctx context.Context, uid string) error
}

// lookAgain is how often a volume that is not as it should be is looked at: one
// comes to be with its first pod, and may grow only when the last has gone.
const lookAgain = 2 * time.Second

// followVolumes keeps the node's volumes as the cluster wants them, and tells
// how they are.
func (a *Agent) followVolumes(ctx context.Context) {
	var mu sync.Mutex
	volumes := map[string]*api.Volume{} // by UID
	wake := make(chan struct{}, 1)
	change := func(f func()) {
		mu.Lock()
		f()
		mu.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		follow(ctx, a.cfg.Client, api.Volumes, client.By("node", a.cfg.Name), a.log,
			func(all []*api.Volume) {
				change(func() {
					clear(volumes)
					for _, v := range all {
						volumes[v.Meta.UID] = v
					}
				})
			},
			func(ev api.WatchEvent[*api.Volume]) {
				change(func() {
					switch ev.Type {
					case api.EventPut:
						volumes[ev.Object.Meta.UID] = ev.Object
					case api.EventDelete:
						delete(volumes, ev.Object.Meta.UID)
					}
				})
			})
	})
	tick := time.NewTimer(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-tick.C:
		}
		mu.Lock()
		var all []*api.Volume
		for _, v := range volumes {
			if is := v.Status.Data; !is.Removed && (v.Meta.Deleting() || is.Size != v.Effective.Size || is.Message != "") {
				all = append(all, v)
			}
		}
		mu.Unlock()
		for _, v := range all {
			a.tend(ctx, v)
		}
		if len(all) > 0 {
			tick.Reset(lookAgain)
		}
	}
}

// tend does for one volume what is to do, and tells.
func (a *Agent) tend(ctx context.Context, v *api.Volume) {
	is := api.VolumeData{Size: v.Status.Data.Size}
	var err error
	if v.Meta.Deleting() {
		if err = a.cfg.Storage.Remove(ctx, v.Meta.UID); err == nil {
			is = api.VolumeData{Removed: true}
		}
	} else {
		var size int64
		if size, err = a.cfg.Storage.Resize(ctx, v); size > 0 {
			is.Size = amount(size, v.Effective.Size)
		}
	}
	if err != nil {
		is.Message = err.Error()
		a.log.Warn("a volume is not as it should be; trying again", "ref", v.Ref(), "error", err)
	}
	if is == v.Status.Data {
		return
	}
	o := *v
	o.Status.Data = is
	if _, err := client.Of(a.cfg.Client, api.Volumes).PutPart(ctx, &o, "data"); err != nil && ctx.Err() == nil {
		a.log.Debug("cannot tell how a volume is; trying again", "ref", v.Ref(), "error", err)
	}
}

// amount says a size as the user did, if it is that.
func amount(size int64, said api.Memory) api.Memory {
	if size == said.Bytes() {
		return said
	}
	return api.Memory(fmt.Sprintf("%dMi", size>>20))
}

package image

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
)

// The disk is looked at every so often. Once it is fuller than high, images are
// removed until it is not fuller than low.
const (
	lookEvery = time.Minute
	high, low = 0.85, 0.75
	// young images are about to be used: a pod that was just placed here waits for them.
	young = 2 * time.Minute
)

// Run removes images while the disk is too full, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	if s.cfg.Disk == nil {
		<-ctx.Done()
		return nil
	}
	for t := time.NewTicker(lookEvery); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
			if err := s.Collect(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("images are not collected", "error", err)
			}
		}
	}
}

// Collect removes images if the disk is too full.
func (s *Store) Collect(ctx context.Context) error {
	used, size, err := s.cfg.Disk()
	if err != nil {
		return fmt.Errorf("look at the disk: %w", err)
	}
	if float64(used) <= high*float64(size) {
		return nil
	}
	all, err := s.rt.Images(ctx)
	if err != nil {
		return err
	}
	inUse := s.inUse(ctx)
	s.mu.Lock()
	p := planCollect(all, s.notes, inUse, used-int64(low*float64(size)), time.Now())
	s.mu.Unlock()
	if len(p.remove) == 0 {
		s.cfg.Log.Error("the disk is nearly full, and no image can be removed", "used_mib", used>>20, "size_mib", size>>20)
		return nil
	}
	for _, img := range p.remove {
		if err := s.rt.RemoveImage(ctx, img.Reference); err != nil {
			return err
		}
		s.forget(img.Reference)
		s.cfg.Log.Info("image removed: the disk is nearly full", "image", img.Reference, "size_mib", img.Size>>20)
	}
	return nil
}

// collectPlan is which images to remove.
type collectPlan struct{ remove []runtime.Image }

func (p collectPlan) String() string {
	var b strings.Builder
	for _, i := range p.remove {
		fmt.Fprintf(&b, "- %s %d MiB\n", i.Reference, i.Size>>20)
	}
	return b.String()
}

// planCollect chooses images that free so many bytes: those that were not used
// for longest first; none that a pod needs, that was loaded by hand, or that
// was used just now.
func planCollect(all []runtime.Image, known notes, inUse map[string]bool, free int64, now time.Time) (p collectPlan) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b runtime.Image) int {
		return cmp.Or(known[a.Reference].Used.Compare(known[b.Reference].Used), strings.Compare(a.Reference, b.Reference))
	})
	for _, i := range all {
		n, seen := known[i.Reference]
		if free <= 0 {
			return p
		}
		if inUse[i.Digest] || n.Loaded || !seen || now.Sub(n.Used) < young {
			continue
		}
		p.remove = append(p.remove, i)
		free -= i.Size
	}
	return p
}

package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// failure is why an object is not what apply asked for.
type failure struct {
	summary, detail string
	// reverted: the cluster has the declaration of before again.
	reverted bool
	// waits: nothing is wrong, but it has not ended: somebody has to decide, or
	// Terraform was interrupted. An error would have the next plan replace it.
	waits bool
	// holds: what waits is a canary, for somebody's word.
	holds bool
}

// add tells of it: as an error, or as a warning.
func (f *failure) add(diags *diag.Diagnostics) {
	if f.waits {
		diags.AddWarning(f.summary, f.detail)
	} else {
		diags.AddError(f.summary, f.detail)
	}
}

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// watch shows see every state of o from now on, and nil once it is gone, until
// see returns true. A stream that breaks is resumed; the error is the
// context's: Canceled when Terraform is interrupted.
func (r *kindResource[O]) watch(ctx context.Context, o O, see func(O) bool) error {
	if see(o) {
		return nil
	}
	var none O
	meta := o.GetMeta()
	from := meta.Revision
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		for ev, err := range r.objects.Watch(ctx, meta.Namespace, nil, from) {
			if err != nil {
				tflog.Debug(ctx, "watch broke: trying again", map[string]any{"error": err.Error()})
				break
			}
			from, retry = max(from, ev.Revision), firstRetry
			if ev.Object.Absent() || ev.Object.GetMeta().Name != meta.Name {
				continue
			}
			now := ev.Object
			if ev.Type == api.EventDelete {
				now = none
			}
			if see(now) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
		now, err := r.objects.Get(ctx, meta.Namespace, meta.Name)
		switch {
		case api.Is(err, api.NotFound):
			see(none)
			return nil
		case err == nil:
			if from = now.GetMeta().Revision; see(now) {
				return nil
			}
		}
	}
}

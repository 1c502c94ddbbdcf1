package agent

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// TestDeletedNodeSaysSo: a node that the cluster turns away logs why, once; a
// server that is away for a while is no news.
func TestDeletedNodeSaysSo(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		errors int
	}{
		"deleted": {api.Errorf(api.Unauthenticated, "node w1 was deleted: join it again with a new token"), 1},
		"away":    {errors.New("connection refused"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				tries := 0
				again(t.Context(), hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Info}), "follow pods", func(context.Context) error {
					if tries++; tries < 5 {
						return test.err
					}
					return nil
				})
				if got := strings.Count(out.String(), "[ERROR]"); got != test.errors || got > 0 && !strings.Contains(out.String(), test.err.Error()) {
					t.Errorf("%d errors, want %d:\n%s", got, test.errors, out.String())
				}
			})
		})
	}
}

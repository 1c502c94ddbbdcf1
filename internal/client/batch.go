package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// batchPath is where batches go.
const batchPath = "/v1/batch"

// Batch applies all writes in one transaction, or none. The error's fields
// name the writes that stood in the way as writes[i].
func (c *Client) Batch(ctx context.Context, writes []api.BatchWrite) (revision int64, err error) {
	return c.BatchIf(ctx, nil, writes)
}

// BatchIf is Batch if all preconditions hold; else the error is of class Precondition.
func (c *Client) BatchIf(ctx context.Context, preconditions []api.BatchPrecondition, writes []api.BatchWrite) (revision int64, err error) {
	if len(writes) > api.MaxBatchWrites {
		return 0, fmt.Errorf("batch of %d writes: at most %d", len(writes), api.MaxBatchWrites)
	}
	var out api.BatchAnswer
	err = c.Call(ctx, http.MethodPost, batchPath, nil, api.Batch{Preconditions: preconditions, Writes: writes}, &out)
	return out.Revision, err
}

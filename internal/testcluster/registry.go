package testcluster

import (
	"context"
	"errors"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/fake"
)

// offers is the registry that the nodes fetch from, as servers ask it.
type offers struct{}

func (offers) Digest(_ context.Context, reference, _, password string) (string, error) {
	i, ok := fake.Named(reference)
	switch {
	case !ok:
		return "", errors.New("the registry has no such image")
	case i.Password != "" && i.Password != password:
		return "", errors.New("it is not for everybody, or the credentials are wrong")
	}
	return fake.Digest(reference, i), nil
}

package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// newToken returns clusterd_token: a token that lives longer than a run, for
// programs outside of the cluster.
//
//	resource "clusterd_token" "ci" {
//	  name      = "ci"
//	  roles     = ["deployer"]
//	  secret_wo = ephemeral.random_password.ci.result
//	}
//
// Its secret is given to it, so that whoever makes the secret can put it where it
// is used in the same run; it is in no plan and no state, and neither does the
// cluster see it: both have its hash. Join tokens are made for a run instead.
func newToken() resource.Resource {
	return &kindResource[*api.Token]{
		kind: api.Tokens,
		// Of join tokens: no attribute says them.
		rename: map[string]string{"name": "-", "max_uses": "-"},
		options: map[string]schema.Attribute{
			"role": schema.StringAttribute{Optional: true,
				MarkdownDescription: "`" + api.RoleAdmin + "`: it may do everything. Left out when there are roles. Tokens that machines join with are made by the ephemeral `clusterd_join_token`."},
			secretWO: schema.StringAttribute{Required: true, WriteOnly: true,
				MarkdownDescription: "The token is `ct_NAME_SECRET`; this is its secret: 40 to 128 random letters and digits, such as a password generator makes. It goes neither into a plan nor into state nor to the cluster, only its hash does; it takes Terraform 1.11. Another secret is found by each plan, and takes the place of the one before at once."},
			secretWO + "_version": schema.NumberAttribute{Optional: true,
				MarkdownDescription: "Any number. When it is set, it alone decides: the token gets another secret when it changes, and `secret_wo` is not looked at otherwise. For secrets that are new on every run."},
			"hash": schema.StringAttribute{Computed: true, MarkdownDescription: "SHA-256 of the secret, in hex."},
		},
		hidden: shared{},
		check:  onlyUsers,
	}
}

const secretWO = "secret_wo"

// onlyUsers refuses what would make a join token, and a secret that is none.
func onlyUsers(v values) (faults []fault) {
	if role, ok := v.text("role"); ok && role != api.RoleAdmin {
		faults = append(faults, fault{path.Root("role"), "want " + api.RoleAdmin + ", or leave it out and name roles; tokens that machines join with are made by the ephemeral clusterd_join_token"})
	}
	if secret, ok := v.text(secretWO); ok {
		if err := pki.CheckSecret(secret); err != nil {
			faults = append(faults, fault{path.Root(secretWO), err.Error()})
		}
	}
	return faults
}

// shared handles the secret of a token, which its user has and the cluster has
// not.
type shared struct{}

// plan decides whether the hash stays: it does if the secret is not another one.
func (shared) plan(_ context.Context, _ *kindResource[*api.Token], plan, prior, config values, diags *diag.Diagnostics) { //nolint:unused // used as a hidden; the linter does not follow it through generics
	was, stays := prior.text("hash")
	stays = stays && plan["name"].Equal(prior["name"])
	if version := secretWO + "_version"; isSet(config[version]) && isSet(prior[version]) {
		stays = stays && config[version].Equal(prior[version])
	} else {
		secret, known := config.text(secretWO)
		stays = stays && known && pki.Hash(secret) == was
	}
	plan["hash"] = tftypes.NewValue(tftypes.String, tftypes.UnknownValue)
	if stays {
		plan["hash"] = prior["hash"]
	}
	if ends, ok := plan.text("expires_at"); ok && prior == nil {
		if t, err := time.Parse(time.RFC3339, ends); err == nil && !t.After(time.Now()) {
			addFault(fault{path.Root("expires_at"), "that is past, so the token would be good for nothing: choose a later time"}, diags)
		}
	}
}

// complete adds to what a plan declares the hash of the secret.
func (shared) complete(o *api.Token, plan, _, config values) { //nolint:unused // used as a hidden; the linter does not follow it through generics
	if secret, ok := config.text(secretWO); ok && !isSet(plan["hash"]) {
		o.Spec.Hash = pki.Hash(secret)
	}
}

package provider

import (
	"cmp"
	"context"

	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// What a join token is good for unless told: one machine, that is made in the
// same run or soon after it.
const (
	joinTTL  = api.Duration("1h")
	joinUses = 1
)

// ephemeralJoin is clusterd_join_token: a token by which a machine joins that
// the run makes. It outlives the run, since machines boot after it: time and use
// end it.
type ephemeralJoin struct{ onCluster }

// joinModel is its attributes.
type joinModel struct {
	Role        types.String `tfsdk:"role"`
	TTL         types.String `tfsdk:"ttl"`
	Uses        types.Int64  `tfsdk:"uses"`
	Machine     types.String `tfsdk:"machine"`
	Description types.String `tfsdk:"description"`
	Name        types.String `tfsdk:"name"`
	Token       types.String `tfsdk:"token"`
}

func (*ephemeralJoin) Metadata(_ context.Context, req ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_join_token"
}

func (*ephemeralJoin) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A token by which a machine joins the cluster, for a write-only attribute of what makes the machine. It is in no state and no plan. It is not revoked when the run ends, since the machine boots later: it ends with its `ttl`, and when it is used up. Terraform opens it for each plan and each apply, so each of them makes one.",
		Attributes: map[string]schema.Attribute{
			"role": schema.StringAttribute{Optional: true,
				MarkdownDescription: "What the machine joins as: `" + api.RoleNode + "` or `" + api.RoleServer + "`, which gives it all keys of the cluster. Default: `" + api.RoleNode + "`."},
			"ttl": schema.StringAttribute{Optional: true,
				MarkdownDescription: "How long it is good for. Default: `" + string(joinTTL) + "`."},
			"uses": schema.Int64Attribute{Optional: true,
				MarkdownDescription: "How many machines may join with it. Default: `1`."},
			"machine":     schema.StringAttribute{Optional: true, MarkdownDescription: "Only the machine of this name may join with it. Default: any."},
			"description": schema.StringAttribute{Optional: true, MarkdownDescription: "What it is for."},
			"name":        schema.StringAttribute{Computed: true, MarkdownDescription: "What the cluster calls it."},
			"token":       schema.StringAttribute{Computed: true, Sensitive: true, MarkdownDescription: "The join token, for `nodeagent run` or `clusterd server`."},
		},
	}
}

// ValidateConfig says what is wrong before anything is made.
func (*ephemeralJoin) ValidateConfig(ctx context.Context, req ephemeral.ValidateConfigRequest, resp *ephemeral.ValidateConfigResponse) {
	var m joinModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	badTTL(m.TTL, &resp.Diagnostics)
	if role := m.Role.ValueString(); role != "" && role != api.RoleNode && role != api.RoleServer {
		resp.Diagnostics.AddAttributeError(path.Root("role"), "Bad role", "Want "+api.RoleNode+" or "+api.RoleServer+": tokens of users are made by clusterd_token.")
	}
	if !m.Uses.IsNull() && !m.Uses.IsUnknown() && m.Uses.ValueInt64() < 1 {
		resp.Diagnostics.AddAttributeError(path.Root("uses"), "Bad uses", "Want at least 1.")
	}
	if machine := m.Machine.ValueString(); machine != "" && api.CheckName(machine) != nil {
		resp.Diagnostics.AddAttributeError(path.Root("machine"), "Bad machine", sentence(api.CheckName(machine).Error()))
	}
}

// Open makes the token.
func (e *ephemeralJoin) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	var m joinModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	e.cluster.demand(&resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if len(e.cluster.ca) == 0 {
		resp.Diagnostics.AddError("No join token without the cluster's CA", "A machine knows its cluster by the CA certificate that the token names: set ca_certificate or ca_file in the provider's block, or CLUSTERD_CACERT, to the ca.crt of a server's data directory.")
		return
	}
	pin, err := pki.PinOf(e.cluster.ca)
	if err != nil {
		resp.Diagnostics.AddError("No usable CA certificate", sentence(err.Error()))
		return
	}
	tok := pki.NewJoinToken(pin)
	uses := joinUses
	if !m.Uses.IsNull() {
		uses = int(m.Uses.ValueInt64())
	}
	ttl := cmp.Or(api.Duration(m.TTL.ValueString()), joinTTL)
	_, err = client.Of(e.cluster.client, api.Tokens).Create(ctx, &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{
		Role: cmp.Or(m.Role.ValueString(), api.RoleNode), Hash: tok.Hash(), MaxUses: uses, Name: m.Machine.ValueString(),
		Description: m.Description.ValueString(), ExpiresAt: api.Now().Add(ttl.D()),
	}})
	if err != nil {
		resp.Diagnostics.AddError("Cannot make a join token", sentence(err.Error()))
		return
	}
	m.Name, m.Token = types.StringValue(tok.ID), types.StringValue(tok.Reveal())
	resp.Diagnostics.Append(resp.Result.Set(ctx, m)...)
}

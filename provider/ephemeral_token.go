package provider

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// tokenTTL is how long the token of a run is good for unless told; one of a
// longer run is renewed, and one of a run that failed, whose end Terraform does
// not always tell, is soon good for nothing.
const tokenTTL = api.Duration("5m")

// ephemeralToken is clusterd_token: a token that is made for a run, is nowhere
// on disk, and ends with it.
type ephemeralToken struct{ onCluster }

// onCluster is what makes its tokens on the provider's cluster.
type onCluster struct{ cluster *cluster }

// EphemeralResources lists what a run makes for itself.
func (*clusterd) EphemeralResources(context.Context) []func() ephemeral.EphemeralResource {
	return []func() ephemeral.EphemeralResource{
		func() ephemeral.EphemeralResource { return &ephemeralToken{} },
		func() ephemeral.EphemeralResource { return &ephemeralJoin{} },
	}
}

// tokenModel is its attributes.
type tokenModel struct {
	Roles       types.List   `tfsdk:"roles"`
	TTL         types.String `tfsdk:"ttl"`
	Description types.String `tfsdk:"description"`
	Name        types.String `tfsdk:"name"`
	Token       types.String `tfsdk:"token"`
}

// openToken is what renewing and closing have to know.
type openToken struct {
	Name string       `json:"name"`
	TTL  api.Duration `json:"ttl"`
}

const openTokenKey = "token"

func (*ephemeralToken) Metadata(_ context.Context, req ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_token"
}

func (*ephemeralToken) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A token that is made for a run of Terraform, is kept in no state and no plan, and is revoked when the run ends; after one that failed, it ends with its `ttl`. Whoever runs it may give no more than it has.",
		Attributes: map[string]schema.Attribute{
			"roles": schema.ListAttribute{Required: true, ElementType: types.StringType,
				MarkdownDescription: "Names of roles: it may do what they give, all together."},
			"ttl": schema.StringAttribute{Optional: true,
				MarkdownDescription: "How long it is good for if the run fails or is killed; a longer run renews it. Default: `" + string(tokenTTL) + "`."},
			"description": schema.StringAttribute{Optional: true, MarkdownDescription: "What it is for."},
			"name":        schema.StringAttribute{Computed: true, MarkdownDescription: "What the cluster calls it."},
			"token":       schema.StringAttribute{Computed: true, Sensitive: true, MarkdownDescription: "The bearer token."},
		},
	}
}

func (e *onCluster) Configure(_ context.Context, req ephemeral.ConfigureRequest, _ *ephemeral.ConfigureResponse) {
	if c, ok := req.ProviderData.(*cluster); ok {
		e.cluster = c
	}
}

// ValidateConfig refuses a ttl that is none.
func (*ephemeralToken) ValidateConfig(ctx context.Context, req ephemeral.ValidateConfigRequest, resp *ephemeral.ValidateConfigResponse) {
	var m tokenModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	badTTL(m.TTL, &resp.Diagnostics)
}

// demand says that no token is made without a cluster.
func (c *cluster) demand(diags *diag.Diagnostics) {
	if c == nil || c.client == nil {
		diags.AddError("No token without a cluster", "The provider's configuration is only known during apply: apply what makes the cluster first.")
	}
}

// badTTL refuses what is no time to live.
func badTTL(ttl types.String, diags *diag.Diagnostics) {
	if d := api.Duration(ttl.ValueString()); d != "" && d.D() < time.Minute {
		diags.AddAttributeError(path.Root("ttl"), "Bad ttl", "Want a duration of at least 1m, such as 15m or 1h.")
	}
}

// Open makes the token.
func (e *ephemeralToken) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	var m tokenModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	var roles []string
	resp.Diagnostics.Append(m.Roles.ElementsAs(ctx, &roles, false)...)
	e.cluster.demand(&resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	open := openToken{TTL: tokenTTL}
	if ttl := m.TTL.ValueString(); ttl != "" {
		open.TTL = api.Duration(ttl)
	}
	tok := pki.NewUserToken()
	open.Name = tok.ID
	_, err := client.Of(e.cluster.client, api.Tokens).Create(ctx, &api.Token{Meta: api.Meta{Name: tok.ID}, Spec: api.TokenSpec{
		Roles: roles, Hash: tok.Hash(), Description: m.Description.ValueString(), ExpiresAt: api.Now().Add(open.TTL.D()),
	}})
	if err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("roles"), "Cannot make a token", sentence(err.Error()))
		return
	}
	private, err := json.Marshal(open)
	if err != nil {
		resp.Diagnostics.AddError("Cannot keep the token", err.Error())
		return
	}
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, openTokenKey, private)...)
	resp.RenewAt = time.Now().Add(open.TTL.D() / 2)
	m.Name, m.Token = types.StringValue(tok.ID), types.StringValue(tok.Reveal())
	resp.Diagnostics.Append(resp.Result.Set(ctx, m)...)
}

// Renew lets the token live for another while.
func (e *ephemeralToken) Renew(ctx context.Context, req ephemeral.RenewRequest, resp *ephemeral.RenewResponse) {
	open := opened(ctx, req.Private, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	tokens := client.Of(e.cluster.client, api.Tokens)
	o, err := tokens.Get(ctx, "", open.Name)
	if err == nil {
		o.Spec.ExpiresAt = api.Now().Add(open.TTL.D())
		_, err = tokens.Replace(ctx, o, o.Meta.Generation)
	}
	if err != nil {
		resp.Diagnostics.AddError("Cannot renew token "+open.Name, sentence(err.Error()))
		return
	}
	resp.RenewAt = time.Now().Add(open.TTL.D() / 2)
}

// Close revokes the token.
func (e *ephemeralToken) Close(ctx context.Context, req ephemeral.CloseRequest, resp *ephemeral.CloseResponse) {
	open := opened(ctx, req.Private, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if err := client.Of(e.cluster.client, api.Tokens).Delete(ctx, "", open.Name, ""); err != nil && !api.Is(err, api.NotFound) {
		resp.Diagnostics.AddWarning("Token "+open.Name+" is not revoked", sentence(err.Error())+" It is good for at most "+string(open.TTL)+" more; to be sure: clusterd delete token "+open.Name)
	}
}

// opened reads what Open kept.
func opened(ctx context.Context, private interface {
	GetKey(context.Context, string) ([]byte, diag.Diagnostics)
}, diags *diag.Diagnostics) (open openToken) {
	b, more := private.GetKey(ctx, openTokenKey)
	diags.Append(more...)
	if err := json.Unmarshal(b, &open); err != nil {
		diags.AddError("The token of this run is not known any more", err.Error())
	}
	return open
}

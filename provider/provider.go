// Package provider is the Terraform provider: apps, jobs, services, volumes and
// namespaces as resources, and what the cluster says about them as data sources.
//
// Invariants: an attribute has the name of the API's field, and null means the
// server's default; state holds what was declared and nothing that changes by
// itself, so a plan after an apply is empty; a write goes through only if the
// object still is what the plan was made from; an object whose apply failed is
// never lost from the state, and the state never claims what the cluster has
// not got; the provider never dials a cluster that was not named.
package provider

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

type clusterd struct {
	version string
	cluster *cluster // what its resources share, once it is configured
}

const providerName = "clusterd"

func (*clusterd) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{newNamespace, newNode, newApp, newJob, newService, newVolume, newConfig, newSecret, newRole, newToken}
}

func (*clusterd) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{newAppData, newAppsData, newClusterData, newEventsData, newLogsData, newNodesData, newPlacementData, newPodsData, newServiceData}
}

func (p *clusterd) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName, resp.Version = providerName, p.version
}

// settings is the provider's block.
type settings struct {
	Address       types.String `tfsdk:"address"`
	Token         types.String `tfsdk:"token"`
	CACertificate types.String `tfsdk:"ca_certificate"`
	CAFile        types.String `tfsdk:"ca_file"`
	Namespace     types.String `tfsdk:"namespace"`
}

func (*clusterd) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Runs workloads on a clusterd cluster. A cluster that the same configuration still has to make is fine: what needs it is checked at apply.",
		Attributes: map[string]schema.Attribute{
			"address": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Where the cluster's API is: `https://host:port` of one server, or of several separated by commas. Also `CLUSTERD_ADDR`. There is no default."},
			"token": schema.StringAttribute{Optional: true, Sensitive: true,
				MarkdownDescription: "Bearer token. Also `CLUSTERD_TOKEN`."},
			"ca_certificate": schema.StringAttribute{Optional: true,
				MarkdownDescription: "The cluster's CA certificate in PEM. Also `CLUSTERD_CACERT`, which holds the name of a file, or the PEM itself. Without one, the system's authorities are trusted."},
			"ca_file": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Name of a file with the cluster's CA certificate in PEM, instead of `ca_certificate`."},
			"namespace": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Namespace of resources that name none. Also `CLUSTERD_NAMESPACE`. Default: `default`."},
		},
	}
}

func (p *clusterd) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var s settings
	resp.Diagnostics.Append(req.Config.Get(ctx, &s)...)
	if resp.Diagnostics.HasError() {
		return
	}
	c := &cluster{}
	p.cluster = c
	resp.ResourceData, resp.DataSourceData, resp.EphemeralResourceData = c, c, c
	if !s.Namespace.IsUnknown() {
		c.namespace = cmp.Or(s.Namespace.ValueString(), os.Getenv("CLUSTERD_NAMESPACE"), api.DefaultNamespace)
		if err := api.CheckName(c.namespace); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("namespace"), "Bad namespace", sentence(err.Error()))
			return
		}
	}
	for name, v := range map[string]types.String{"address": s.Address, "token": s.Token, "ca_certificate": s.CACertificate, "ca_file": s.CAFile} {
		if v.IsUnknown() {
			resp.Diagnostics.AddAttributeWarning(path.Root(name), "The cluster is not known yet",
				"The provider's "+name+" is only known during apply, so this plan was made without asking the cluster: state was not refreshed, and what only the cluster can check is checked by apply.")
			return
		}
	}
	c.connect(s, "terraform-provider-clusterd/"+p.version, resp)
}

// connect makes the client; it does not dial.
func (c *cluster) connect(s settings, userAgent string, resp *provider.ConfigureResponse) {
	address := cmp.Or(s.Address.ValueString(), os.Getenv("CLUSTERD_ADDR"))
	token := cmp.Or(s.Token.ValueString(), os.Getenv("CLUSTERD_TOKEN"))
	if address == "" {
		resp.Diagnostics.AddAttributeError(path.Root("address"), "No address of the cluster",
			"Set address in the provider's block, or the environment variable CLUSTERD_ADDR, to https://host:port of a server. On a local cluster, clusterd dev env prints it.")
	}
	if token == "" {
		resp.Diagnostics.AddAttributeError(path.Root("token"), "No token",
			"Set token in the provider's block, or the environment variable CLUSTERD_TOKEN. On a local cluster, clusterd dev env prints it.")
	}
	pem, at, err := authorities(s)
	roots := x509.NewCertPool()
	switch {
	case err != nil:
	case len(pem) == 0:
		roots = nil // the system's
	case !roots.AppendCertsFromPEM(pem):
		err = errors.New("there is no certificate in PEM in it: one begins with -----BEGIN CERTIFICATE-----")
	}
	if err != nil {
		resp.Diagnostics.AddAttributeError(at, "No usable CA certificate", sentence(err.Error()))
	}
	if resp.Diagnostics.HasError() {
		return
	}
	c.ca = pem
	c.client, err = client.New(client.Config{
		Addresses: strings.Split(address, ","), Token: token, UserAgent: userAgent,
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
	})
	if err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("address"), "Bad address of the cluster", sentence(err.Error()))
	}
}

// authorities returns the certificates of the roots to trust, in PEM; nothing
// means the system's.
func authorities(s settings) (ca []byte, at path.Path, err error) {
	pem, file := s.CACertificate.ValueString(), s.CAFile.ValueString()
	at = path.Root("ca_certificate")
	switch env := os.Getenv("CLUSTERD_CACERT"); {
	case pem != "" && file != "":
		return nil, at, fmt.Errorf("set ca_certificate or ca_file, not both")
	case pem == "" && file == "" && strings.Contains(env, "-----BEGIN"):
		pem = env
	case pem == "" && file == "":
		file = env
	}
	if file != "" {
		at = path.Root("ca_file")
		b, err := os.ReadFile(file)
		return b, at, err
	}
	return []byte(pem), at, nil
}

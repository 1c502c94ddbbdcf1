package provider

import (
	"context"
	"reflect"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/function"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Functions lists what modules can compute without a cluster.
func (*clusterd) Functions(context.Context) []func() function.Function {
	return []func() function.Function{
		func() function.Function {
			return textFunction{
				name: "parse_image", argument: "image", result: function.ObjectReturn{AttributeTypes: textAttributes(api.ImageRef{})},
				doc:  "Splits an image reference into registry, repository, tag and digest, completed as every registry client does: `nginx` is `docker.io`, `library/nginx`, `latest`.",
				eval: func(s string) (any, error) { r, err := api.ParseImage(s); return texts(r), err },
			}
		},
		func() function.Function {
			return textFunction{
				name: "bytes", argument: "memory", result: function.Int64Return{},
				doc:  "The number of bytes of an amount of memory or storage, such as `64Mi` or `1Gi`.",
				eval: func(s string) (any, error) { return api.ParseMemory(s) },
			}
		},
		func() function.Function {
			return textFunction{
				name: "millicpu", argument: "cpu", result: function.Int64Return{},
				doc:  "The thousandths of a core of an amount of cpu, such as `250m` or `0.5`.",
				eval: func(s string) (any, error) { return api.ParseCPU(s) },
			}
		},
	}
}

// textFunction computes something of one text.
type textFunction struct {
	name, argument, doc string
	result              function.Return
	eval                func(string) (any, error)
}

// Metadata names the function.
func (f textFunction) Metadata(_ context.Context, _ function.MetadataRequest, resp *function.MetadataResponse) {
	resp.Name = f.name
}

// Definition says what goes in and what comes out.
func (f textFunction) Definition(_ context.Context, _ function.DefinitionRequest, resp *function.DefinitionResponse) {
	resp.Definition = function.Definition{
		Summary: f.doc, MarkdownDescription: f.doc, Return: f.result,
		Parameters: []function.Parameter{function.StringParameter{Name: f.argument, MarkdownDescription: "The text to read."}},
	}
}

// Run computes it.
func (f textFunction) Run(ctx context.Context, req function.RunRequest, resp *function.RunResponse) {
	var in string
	if resp.Error = req.Arguments.Get(ctx, &in); resp.Error != nil {
		return
	}
	out, err := f.eval(in)
	if err != nil {
		resp.Error = function.NewArgumentFuncError(0, sentence(err.Error()))
		return
	}
	resp.Error = resp.Result.Set(ctx, out)
}

// texts are the fields of an API struct of strings as an object.
func texts(of any) attr.Value {
	values := map[string]attr.Value{}
	for _, f := range fields(reflect.TypeOf(of)) {
		values[f.name] = types.StringValue(reflect.ValueOf(of).FieldByIndex(f.index).String())
	}
	return types.ObjectValueMust(textAttributes(of), values)
}

func textAttributes(of any) map[string]attr.Type {
	out := map[string]attr.Type{}
	for _, f := range fields(reflect.TypeOf(of)) {
		out[f.name] = types.StringType
	}
	return out
}

package settings

import (
	"encoding/csv"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/pflag"
)

// value is what stands behind a name in the file.
type value struct {
	shape shape
	texts []string
}

type shape int

const (
	one   shape = iota + 1 // name = "web"
	list                   // join = ["10.0.0.1"]
	keyed                  // labels = { zone = "a" }; its texts are zone=a
)

// evaluate reads what the file says of a setting, which refers to nothing.
func evaluate(expr hcl.Expression) (v value, err error) {
	got, diags := expr.Value(nil)
	if diags.HasErrors() {
		return v, fmt.Errorf("%s: %s", diags[0].Summary, diags[0].Detail)
	}
	if got.IsNull() {
		return v, errors.New("null is no value: leave the line out")
	}
	switch t := got.Type(); {
	case t.IsPrimitiveType():
		text, err := scalar(expr)
		return value{one, []string{text}}, err
	case t.IsTupleType():
		items, diags := hcl.ExprList(expr)
		if diags.HasErrors() {
			return v, errors.New("want a plain list, such as [\"a\", \"b\"]")
		}
		v.shape = list
		for _, item := range items {
			text, err := scalar(item)
			if err != nil {
				return v, err
			}
			v.texts = append(v.texts, text)
		}
		return v, nil
	case t.IsObjectType():
		pairs, diags := hcl.ExprMap(expr)
		if diags.HasErrors() {
			return v, errors.New("want a plain map, such as { zone = \"a\" }")
		}
		v.shape = keyed
		for _, p := range pairs {
			key, err := scalar(p.Key)
			if err != nil {
				return v, err
			}
			text, err := scalar(p.Value)
			if err != nil {
				return v, err
			}
			v.texts = append(v.texts, key+"="+text)
		}
		return v, nil
	default:
		return v, fmt.Errorf("%s is no setting", t.FriendlyName())
	}
}

// scalar is a string, a number or a bool as a flag would be given it.
func scalar(expr hcl.Expression) (string, error) {
	got, diags := expr.Value(nil)
	if diags.HasErrors() {
		return "", fmt.Errorf("%s: %s", diags[0].Summary, diags[0].Detail)
	}
	if !got.IsNull() {
		switch got.Type().FriendlyName() {
		case "string":
			return got.AsString(), nil
		case "number":
			return got.AsBigFloat().Text('f', -1), nil
		case "bool":
			return fmt.Sprint(got.True()), nil
		}
	}
	return "", errors.New("want a string, a number or a bool")
}

// set gives a flag what the file says.
func set(f *pflag.Flag, v value) error {
	slice, isList := f.Value.(pflag.SliceValue)
	isMap := f.Value.Type() == "stringToString"
	switch {
	case isList && v.shape == list:
		return slice.Replace(v.texts)
	case isList:
		return errors.New(`want a list, such as ["a", "b"]`)
	case isMap && v.shape == keyed:
		var line strings.Builder
		w := csv.NewWriter(&line) // what this kind of flag reads
		if err := w.Write(v.texts); err != nil {
			return err
		}
		w.Flush()
		return f.Value.Set(strings.TrimSuffix(line.String(), "\n"))
	case isMap:
		return errors.New(`want a map, such as { zone = "a" }`)
	case v.shape != one:
		return errors.New("want one value")
	}
	return f.Value.Set(v.texts[0])
}

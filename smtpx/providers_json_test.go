package smtpx_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

// The published form of the profiles and its schema.
const (
	providersJSON   = "../docs/providers.json"
	providersSchema = "../docs/providers.schema.json"
)

func TestProvidersDocumentAsJSON(t *testing.T) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(map[string]any{"$schema": "providers.schema.json", "providers": smtpx.Profiles()}); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(providersJSON, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(providersJSON)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Errorf("%s is not what the profiles say: run go test ./smtpx -run ProvidersDocument -update", providersJSON)
	}
	s := readSchema(t)
	for _, problem := range s.check(s.root, decode(t, got), "") {
		t.Error(problem)
	}
}

// What the schema forbids is found.
func TestProvidersSchemaIsStrict(t *testing.T) {
	s := readSchema(t)
	for name, text := range map[string]string{
		"nothing":        `{}`,
		"no providers":   `{"providers": []}`,
		"no title":       `{"providers": [{"name": "a"}]}`,
		"unknown key":    `{"providers": [{"name": "a", "title": "A", "colour": "red"}]}`,
		"bad name":       `{"providers": [{"name": "A b", "title": "A"}]}`,
		"fact, no mark":  `{"providers": [{"name": "a", "title": "A", "size": {"value": 1, "source": "x"}}]}`,
		"fact of zero":   `{"providers": [{"name": "a", "title": "A", "size": {"value": 0, "source": "x", "mark": "code"}}]}`,
		"unknown mark":   `{"providers": [{"name": "a", "title": "A", "size": {"value": 1, "source": "x", "mark": "sure"}}]}`,
		"text for list":  `{"providers": [{"name": "a", "title": "A", "hosts": "a.example"}]}`,
		"unknown class":  `{"providers": [{"name": "a", "title": "A", "rules": [{"id": "a.b", "class": "bad", "source": "x"}]}]}`,
		"no source":      `{"providers": [{"name": "a", "title": "A", "rules": [{"id": "a.b", "class": "quota"}]}]}`,
		"code of 2yz":    `{"providers": [{"name": "a", "title": "A", "rules": [{"id": "a.b", "class": "quota", "source": "x", "codes": ["250"]}]}]}`,
		"words as text":  `{"providers": [{"name": "a", "title": "A", "words": {"x": "y"}}]}`,
		"half a number":  `{"providers": [{"name": "a", "title": "A", "size": {"value": 1.5, "source": "x", "mark": "code"}}]}`,
		"unknown schema": `{"$schema": 1, "providers": [{"name": "a", "title": "A"}]}`,
	} {
		if len(s.check(s.root, decode(t, []byte(text)), "")) == 0 {
			t.Errorf("%s: %s passes", name, text)
		}
	}
	if problems := s.check(s.root, decode(t, []byte(`{"providers": [{"name": "a", "title": "A"}]}`)), ""); len(problems) > 0 {
		t.Error(problems)
	}
}

// schema is a JSON Schema of the keywords that providers.schema.json uses. It refuses others.
type schema struct {
	root map[string]any
}

func readSchema(t *testing.T) schema {
	t.Helper()
	data, err := os.ReadFile(providersSchema)
	if err != nil {
		t.Fatal(err)
	}
	root, ok := decode(t, data).(map[string]any)
	if !ok {
		t.Fatalf("%s is no object", providersSchema)
	}
	return schema{root}
}

func decode(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// check returns what is wrong with a value at a path.
func (s schema) check(rules map[string]any, value any, path string) []string {
	var problems []string
	wrong := func(format string, args ...any) {
		problems = append(problems, path+": "+fmt.Sprintf(format, args...))
	}
	object, isObject := value.(map[string]any)
	list, isList := value.([]any)
	text, isText := value.(string)
	number, isNumber := value.(float64)
	for keyword, rule := range rules {
		switch keyword {
		case "$schema", "$defs", "title", "description":
		case "$ref":
			name := strings.TrimPrefix(rule.(string), "#/$defs/")
			problems = append(problems, s.check(s.root["$defs"].(map[string]any)[name].(map[string]any), value, path)...)
		case "type":
			ok := map[string]bool{"object": isObject, "array": isList, "string": isText, "integer": isNumber && number == math.Trunc(number)}
			if !ok[rule.(string)] {
				wrong("%v is no %s", value, rule)
			}
		case "enum":
			if !slices.ContainsFunc(rule.([]any), func(v any) bool { return reflect.DeepEqual(v, value) }) {
				wrong("%v is none of %v", value, rule)
			}
		case "pattern":
			if isText && !regexp.MustCompile(rule.(string)).MatchString(text) {
				wrong("%q does not match %s", text, rule)
			}
		case "minLength":
			if isText && len(text) < int(rule.(float64)) {
				wrong("is empty")
			}
		case "minimum":
			if isNumber && number < rule.(float64) {
				wrong("%v is less than %v", number, rule)
			}
		case "minItems":
			if isList && len(list) < int(rule.(float64)) {
				wrong("has no items")
			}
		case "items":
			for i, v := range list {
				problems = append(problems, s.check(rule.(map[string]any), v, fmt.Sprintf("%s[%d]", path, i))...)
			}
		case "required":
			for _, name := range rule.([]any) {
				if _, ok := object[name.(string)]; isObject && !ok {
					wrong("%s is missing", name)
				}
			}
		case "properties", "additionalProperties": // below
		default:
			wrong("the schema has the keyword %s, which is not known here", keyword)
		}
	}
	properties, _ := rules["properties"].(map[string]any)
	for name, v := range object {
		at := path + "." + name
		if p, ok := properties[name].(map[string]any); ok {
			problems = append(problems, s.check(p, v, at)...)
			continue
		}
		switch other := rules["additionalProperties"].(type) {
		case map[string]any:
			problems = append(problems, s.check(other, v, at)...)
		case bool:
			if !other {
				wrong("has %s, which the schema does not know", name)
			}
		}
	}
	return problems
}

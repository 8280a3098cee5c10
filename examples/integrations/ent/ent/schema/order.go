// Package schema describes the entities of the shop for ent.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
)

// Order is an order.
type Order struct{ ent.Schema }

// Fields lists the fields of an order.
func (Order) Fields() []ent.Field { return []ent.Field{field.String("customer")} }

/*-------------------------------------------------------------------------
 *
 * combine.c
 *	  The states of several nodes as those of one.
 *
 *	  A profile's values follow from the states of all of its nodes.  Of a
 *	  profile with many nodes they are kept combined (apply/evaluate.c), which
 *	  is a cache and nothing more: it can be made again from the nodes.
 *
 * IDENTIFICATION
 *	  src/traits/combine.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/shmem.h"
#include "utils/memutils.h"

#include "traits/node.h"
#include "traits/traitset.h"

static void
combine_declared(CdpNodeAcc *into, CdpNodeAcc *from)
{
	CdpNodeDeclared(from);
	CdpNodeDeclared(into);
	for (int i = 0; i < from->ndeclared; i++)
	{
		CdpDeclared *declared = &from->declared[i];
		bool		found;
		int			place = CdpNodeDeclaredSearch(into, declared->key,
												  declared->keylen, &found);

		if (found)
		{
			if (CdpOrderCompare(declared->at, declared->tie,
								into->declared[place].at,
								into->declared[place].tie) <= 0)
				continue;
		}
		else
		{
			if (into->ndeclared >= into->maxdeclared)
			{
				into->maxdeclared = Max(8, 2 * into->maxdeclared);
				if (into->declared == NULL)
					into->declared = palloc(mul_size(into->maxdeclared, sizeof(CdpDeclared)));
				else
					into->declared = repalloc(into->declared,
											  mul_size(into->maxdeclared, sizeof(CdpDeclared)));
			}
			memmove(&into->declared[place + 1], &into->declared[place],
					(into->ndeclared - place) * sizeof(CdpDeclared));
			into->ndeclared++;
		}
		into->declared[place] = *declared;
		into->declared[place].written = true;
		into->declared_dirty = into->dirty = true;
	}
}

/*
 * Add the states of the traits in "only" (NULL: all).
 */
static void
combine_states(CdpNodeAcc *into, CdpNodeAcc *from, const Bitmapset *only)
{
	MemoryContext old = MemoryContextSwitchTo(into->context);

	for (int i = 0; i < into->set->ntraits; i++)
	{
		CdpTraitRules *rules = into->set->traits[i]->rules;
		CdpState   *state;
		CdpNodeSlot *slot = &into->slots[i];

		/* states of suspended traits are not opened */
		if (rules->suspended || (only != NULL && !bms_is_member(i, only)))
			continue;
		state = CdpNodeState(from, i);
		if (state == NULL)
			continue;
		if (CdpNodeState(into, i) == NULL)
			slot->state = CdpStateMake(&rules->state);
		CdpStateCombine(slot->state, state);
		slot->dirty = into->dirty = true;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Add what "from" has to "into".  What they hold is shared from then on: "from"
 * must stay for as long as "into" does.
 */
void
CdpNodeCombine(CdpNodeAcc *into, CdpNodeAcc *from)
{
	MemoryContext old;

	combine_states(into, from, NULL);
	old = MemoryContextSwitchTo(into->context);
	combine_declared(into, from);
	MemoryContextSwitchTo(old);
}

/*
 * The same of some computed traits only.
 */
void
CdpNodeCombineSome(CdpNodeAcc *into, CdpNodeAcc *from, const Bitmapset *only)
{
	if (!bms_is_empty(only))
		combine_states(into, from, only);
}

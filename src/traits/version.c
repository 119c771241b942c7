/*-------------------------------------------------------------------------
 *
 * version.c
 *	  Definitions whose history is not folded yet.
 *
 *	  A row of cdp.backfills says that the applier is at work on a definition.
 *	  A trait that is new has its row of cdp.trait_definitions under its name,
 *	  and no value until it is whole.  One that is altered goes on as it is;
 *	  its next version is a hidden trait, which takes its place, with its id,
 *	  when it is whole.
 *
 *	  The states of a building trait are those of the nodes up to a position,
 *	  by number: an entry of such a node is folded as it comes, one of a node
 *	  beyond is left to the back-fill, which folds all that the node owns by
 *	  then.  So every entry counts once, whatever moves meanwhile.  Of a trait
 *	  over the members of accounts there are no states of nodes: the position is
 *	  that of the profiles that have been evaluated for it.
 *
 * IDENTIFICATION
 *	  src/traits/version.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "statement.h"
#include "traits/traitset.h"

static CdpStatement begin_backfill = {
	"INSERT INTO cdp.backfills (kind, id, replaces, fresh, position)"
	" VALUES ($1, $2, nullif($3, 0), $4, CASE WHEN $1 = 'trait' AND EXISTS"
	" (SELECT FROM cdp.trait_definitions t WHERE t.id = $2 AND t.entity = 'account'"
	" AND t.options->>'over' IS NULL) THEN $5 ELSE 0 END)"
	" ON CONFLICT (kind, id) DO NOTHING",
	{"text", "int4", "int4", "bool", "int8"}
};

static CdpStatement end_backfill = {
	"DELETE FROM cdp.backfills b WHERE b.kind = $1 AND b.id = $2",
	{"text", "int4"}
};

static CdpStatement positions = {
	"SELECT b.id, b.position FROM cdp.backfills b WHERE b.kind = 'trait'",
	{NULL}
};

static CdpStatement version_of = {
	"SELECT b.id FROM cdp.backfills b WHERE b.kind = 'trait' AND b.replaces = $1",
	{"int4"}
};

static CdpStatement replaced_by = {
	"SELECT b.replaces FROM cdp.backfills b"
	" WHERE b.kind = 'trait' AND b.id = $1 AND b.replaces IS NOT NULL",
	{"int4"}
};

static CdpStatement fresh_one = {
	"SELECT 1 FROM cdp.backfills b WHERE b.kind = 'trait' AND b.id = $1 AND b.fresh",
	{"int4"}
};

static CdpStatement delete_definition = {
	"DELETE FROM cdp.trait_definitions t WHERE t.id = $1",
	{"int4"}
};

static CdpStatement delete_errors = {
	"DELETE FROM cdp.trait_errors e WHERE e.trait_id = $1",
	{"int4"}
};

/*
 * Run a statement as the extension's owner; returns the number of rows, and
 * the first column of the first one, or 0.
 */
static uint64
run(CdpStatement *statement, Datum *args, int32 *value)
{
	CdpUserContext saved;
	uint64		n;
	bool		isnull;

	CdpBecomeOwner(&saved);
	SPI_connect();
	n = CdpRun(statement, args, NULL);
	if (value != NULL)
		*value = n == 0 ? 0 : DatumGetInt32(CdpCell(0, 1, &isnull));
	SPI_finish();
	CdpRestoreUser(&saved);
	return n;
}

bool
CdpBackfillLater(void)
{
	return CdpBackfillLaterHook != NULL && CdpBackfillLaterHook();
}

void
CdpBackfillBegin(const char *kind, int32 id, int32 replaces, bool fresh)
{
	Datum		args[5];

	args[0] = CStringGetTextDatum(kind);
	args[1] = Int32GetDatum(id);
	args[2] = Int32GetDatum(replaces);
	args[3] = BoolGetDatum(fresh);
	/* entries that are nobody's come first */
	args[4] = Int64GetDatum(CDP_NOBODYS_OWNER(0));
	(void) run(&begin_backfill, args, NULL);
}

bool
CdpBackfillEnd(const char *kind, int32 id)
{
	Datum		args[2];

	args[0] = CStringGetTextDatum(kind);
	args[1] = Int32GetDatum(id);
	return run(&end_backfill, args, NULL) > 0;
}

/*
 * The applier calls it before it folds: inside SPI, as the extension's owner.
 */
void
CdpTraitsBuilt(CdpTraitSet *set)
{
	if (set->nbuilding == 0)
		return;
	CdpRun(&positions, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		CdpTrait   *trait = CdpTraitById(set, DatumGetInt32(CdpCell(i, 1, &isnull)));

		if (trait != NULL)
			trait->built = CdpCellInt8(i, 2);
	}
	SPI_freetuptable(SPI_tuptable);
}

const char *
CdpTraitSuspended(const CdpTrait *trait)
{
	return trait->rules->suspended ? trait->rules->why : NULL;
}

PG_FUNCTION_INFO_V1(cdp_suspended_traits);

/*
 * cdp.suspended_traits(): ids, as this session has compiled the definitions.
 */
Datum
cdp_suspended_traits(PG_FUNCTION_ARGS)
{
	CdpTraitSet *sets[] = {CdpTraitSetGet(-1), CdpAccountTraitSetGet(-1)};
	int32	   *ids = palloc(sizeof(int32) * Max(sets[0]->ntraits + sets[1]->ntraits, 1));
	int			n = 0;

	for (int i = 0; i < lengthof(sets); i++)
		for (int k = 0; k < sets[i]->ntraits; k++)
			if (CdpTraitSuspended(sets[i]->traits[k]) != NULL)
				ids[n++] = sets[i]->traits[k]->id;
	PG_RETURN_DATUM(CdpInt4Array(ids, n));
}

int32
CdpVersionOf(int32 trait_id)
{
	Datum		arg = Int32GetDatum(trait_id);
	int32		id;

	(void) run(&version_of, &arg, &id);
	return id;
}

/* Was there nothing before the trait that is being built? */
bool
CdpBackfillIsFresh(int32 trait_id)
{
	Datum		arg = Int32GetDatum(trait_id);

	return run(&fresh_one, &arg, NULL) > 0;
}

void
CdpVersionDrop(int32 id)
{
	Datum		arg = Int32GetDatum(id);

	(void) CdpBackfillEnd("trait", id);
	CdpDependsSet("account", id, NIL);
	(void) run(&delete_errors, &arg, NULL);
	(void) run(&delete_definition, &arg, NULL);
}

/*
 * The row of the old version gets the contents and the id of the new one, so
 * that whoever depends on it follows.
 */
void
CdpVersionSwitch(int32 id)
{
	Datum		arg = Int32GetDatum(id);
	CdpDefinition *old;
	CdpDefinition *new;
	int32		replaces;

	(void) run(&replaced_by, &arg, &replaces);
	if (replaces == 0)
	{
		(void) CdpBackfillEnd("trait", id);
		return;
	}
	old = CdpDefinitionReadId(replaces);
	new = CdpDefinitionReadId(id);
	if (old == NULL || new == NULL)
		elog(ERROR, "version %d of trait %d is not defined", id, replaces);
	/* until it has its place, what it has stored beside the nodes is kept */
	(void) run(&delete_definition, &arg, NULL);
	new->name = old->name;
	new->hidden = old->hidden;
	(void) CdpDefinitionWrite(new, replaces);
	(void) CdpBackfillEnd("trait", id);
	CdpDependsSet("trait", id, NIL);
	if (CdpTraitAlteredHook)
		CdpTraitAlteredHook(replaces, id, false);
	if (CdpOfAccounts(new))
	{
		CdpDependsSet("account", replaces, NIL);
		CdpHiddenTraitsPrune();
	}
}

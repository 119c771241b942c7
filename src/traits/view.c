/*-------------------------------------------------------------------------
 *
 * view.c
 *	  cdp.profile_traits: one typed column a trait.
 *
 *	  An ordinary view, not a member of the extension: pg_dump then dumps it
 *	  with its columns, so that users' views on it can be restored.  It is made
 *	  when the first trait is defined (were it made by the install script, the
 *	  dumped CREATE VIEW would fail on restore), and changed only here.  A
 *	  column that goes, or changes its type, needs the view to be made anew,
 *	  which PostgreSQL refuses while other views depend on it.
 *
 * IDENTIFICATION
 *	  src/traits/view.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "cdp.h"
#include "traits/traitset.h"

static void
run(const char *command)
{
	if (SPI_execute(command, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", command);
}

/*
 * Let DROP EXTENSION drop the view too, without making it a member.
 */
static void
depend_on_extension(Oid view)
{
	ObjectAddress object;
	ObjectAddress extension;

	ObjectAddressSet(object, RelationRelationId, view);
	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("cdp", false));
	/* it may have become a member, when made by another extension's script */
	deleteDependencyRecordsForClass(RelationRelationId, view,
									ExtensionRelationId,
									DEPENDENCY_EXTENSION);
	deleteDependencyRecordsForClass(RelationRelationId, view,
									ExtensionRelationId,
									DEPENDENCY_AUTO_EXTENSION);
	recordDependencyOn(&object, &extension, DEPENDENCY_AUTO_EXTENSION);
}

/*
 * Privileges on a view as GRANT commands, for the view to which they are to be
 * given: itself, made anew, or one that is made.
 */
static List *
saved_grants(const char *from, const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *grants = NIL;

	if (SPI_execute(psprintf("SELECT format('GRANT %%s ON cdp.%s TO %%s%%s',"
					" a.privilege_type, CASE WHEN a.grantee = 0 THEN 'PUBLIC'"
					" ELSE quote_ident(pg_get_userbyid(a.grantee)) END,"
					" CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
					" FROM pg_class c, aclexplode(c.relacl) a"
					" WHERE c.oid = 'cdp.%s'::regclass"
					" AND a.grantee <> c.relowner", name, from),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read privileges");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *grant = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		grants = lappend(grants, MemoryContextStrdup(context, grant));
	}
	return grants;
}

/*
 * A column of a view can only go with the whole view.  Say so in terms of what
 * the user asked for.
 */
static void
check_unused(Oid view, const char *name)
{
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(view)};
	char	   *list;

	if (SPI_execute_with_args("SELECT string_agg(DISTINCT c.oid::regclass::text, ', ')"
							  " FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid"
							  " JOIN pg_class c ON c.oid = r.ev_class"
							  " WHERE d.classid = 'pg_rewrite'::regclass"
							  " AND d.refclassid = 'pg_class'::regclass"
							  " AND d.refobjid = $1 AND c.oid <> $1",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dependencies");
	list = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop or retype a column of cdp.%s because other views depend on it", name),
				 errdetail("Dependent: %s.", list),
				 errhint("Drop these views first, and create them again afterwards.")));
}

static void
append_column(StringInfo query, CdpTrait *trait)
{
	const char *type = format_type_be_qualified(trait->type);
	char	   *key = quote_literal_cstr(trait->name);

	if (trait->type == JSONBOID)
		appendStringInfo(query, ", x.v -> %s AS %s", key,
						 quote_identifier(trait->name));
	else if (OidIsValid(get_element_type(trait->type)))
		appendStringInfo(query, ", (SELECT r.a FROM jsonb_to_record("
						 "jsonb_build_object('a', x.v -> %s)) r(a %s)) AS %s", key, type,
						 quote_identifier(trait->name));
	else
		appendStringInfo(query, ", (x.v ->> %s)::%s AS %s", key, type,
						 quote_identifier(trait->name));
}

/*
 * Make the view fit the set.  A rename keeps the column where it is.
 */
void
CdpTraitsView(CdpTraitSet *set, const char *renamed_from, const char *renamed_to)
{
	const char *name = set->accounts ? "account_traits" : "profile_traits";
	CdpUserContext saved;
	Oid			view;
	StringInfoData query;
	Bitmapset  *done = NULL;
	bool		anew = false;
	List	   *grants = NIL;
	ListCell   *lc;

	CdpBecomeOwner(&saved);
	SPI_connect();
	view = get_relname_relid(name, CdpSchemaOid());
	if (OidIsValid(view) && renamed_from != NULL &&
		get_attnum(view, renamed_from) != InvalidAttrNumber)
	{
		run(psprintf("ALTER VIEW cdp.%s RENAME COLUMN %s TO %s", name,
					 quote_identifier(renamed_from), quote_identifier(renamed_to)));
		CommandCounterIncrement();
	}

	initStringInfo(&query);
	appendStringInfo(&query, "CREATE OR REPLACE VIEW cdp.%s WITH (security_barrier) AS SELECT x.%s", name,
					 set->accounts ? "account_id" : "profile_id");
	if (OidIsValid(view))
	{
		/* columns that stay come first, in their order */
		Relation	rel = relation_open(view, AccessShareLock);
		TupleDesc	desc = RelationGetDescr(rel);

		for (int i = 1; i < desc->natts; i++)
		{
			Form_pg_attribute attribute = TupleDescAttr(desc, i);
			CdpTrait   *trait = CdpTraitByName(set, NameStr(attribute->attname));

			if (trait == NULL || trait->type != attribute->atttypid)
			{
				anew = true;
				continue;
			}
			append_column(&query, trait);
			done = bms_add_member(done, trait->index);
		}
		relation_close(rel, AccessShareLock);
	}
	for (int i = 0; i < set->ntraits; i++)
		if (!set->traits[i]->hidden && !bms_is_member(i, done))
			append_column(&query, set->traits[i]);
	appendStringInfoString(&query, set->accounts
						   ? " FROM (SELECT a.account_id, cdp.account_trait_values(a.account_id) AS v"
						   " FROM cdp.account_identities a) x"
						   : " FROM (SELECT i.profile_id,"
						   " cdp.trait_values(i.state) AS v"
						   " FROM cdp.identities i WHERE cdp.visible(i.profile_id)"
						   " GROUP BY i.profile_id) x");

	if (anew)
	{
		check_unused(view, name);
		grants = saved_grants(name, name);
		run(psprintf("DROP VIEW cdp.%s", name));
	}
	else if (!OidIsValid(view))
	{
		/* who was let see the one, before there was a trait, sees the other */
		grants = saved_grants(set->accounts ? "accounts" : "profiles", name);
	}
	run(query.data);
	foreach(lc, grants)
		run((char *) lfirst(lc));
	if (!OidIsValid(view) || anew)
		run(psprintf("COMMENT ON VIEW cdp.%s IS"
					 " 'one row %s, one typed column a trait; kept up to date by create_trait() and its like'",
					 name, set->accounts ? "an account" : "a profile"));
	/* always: a restored view has lost it */
	CommandCounterIncrement();
	depend_on_extension(get_relname_relid(name, CdpSchemaOid()));
	SPI_finish();
	CdpRestoreUser(&saved);
}

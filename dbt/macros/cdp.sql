{# An identifier: cdp_identifier('email', 'address') #}
{% macro cdp_identifier(kind, column) -%}
cdp.identifier({{ dbt.string_literal(kind) }}, ({{ column }})::text)
{%- endmacro %}

{# The profile that an identifier belongs to now; NULL when unknown #}
{% macro cdp_profile_id(kind, column) -%}
cdp.resolve({{ cdp.cdp_identifier(kind, column) }})
{%- endmacro %}

{# Is the profile in the segment at the instant of the query? #}
{% macro cdp_in_segment(profile_id, segment) -%}
cdp.in_segment({{ profile_id }}, {{ dbt.string_literal(cdp.cdp_name(segment)) }})
{%- endmacro %}

{# A trait's value in a query over cdp.profiles #}
{% macro cdp_trait(name, type='text', traits='traits') -%}
({{ traits }}->>{{ dbt.string_literal(cdp.cdp_name(name)) }})::{{ type }}
{%- endmacro %}

{# A state of an aggregate over rows, to be stored, added up and finished later #}
{% macro cdp_trait_state(aggregate, value, at='NULL', options='NULL') -%}
cdp.trait_state_agg({{ dbt.string_literal(aggregate) }}, {{ value }}, {{ at }}, {{ options }}::jsonb)
{%- endmacro %}

{# What a model of the materialisations cdp_trait and cdp_segment defines, by
   its ref(): so that one definition can name another and dbt sees the edge. #}
{% macro cdp_name(what) -%}
{{ return(what.identifier if what is not string else what) }}
{%- endmacro %}

{# For an incremental model over cdp.changes: those after the last that it has.
   The model keeps the columns epoch and seq. #}
{% macro cdp_changes_since(relation) -%}
(epoch, seq) > (SELECT COALESCE(max(x.epoch), 0), COALESCE(max(x.seq) FILTER (WHERE x.epoch = m.epoch), 0)
                FROM {{ relation }} x, (SELECT max(epoch) AS epoch FROM {{ relation }}) m)
{%- endmacro %}

{# A statement, also for on-run-end: wait until what has been logged is applied; where no worker runs, apply it. #}
{% macro cdp_wait(timeout=none) %}
  {%- if execute -%}
    {%- if run_query("SELECT worker_running FROM cdp.status()").columns[0].values()[0] -%}
      DO $$ BEGIN
        IF NOT cdp.wait_applied({{ dbt.string_literal(timeout or var('cdp_wait_timeout', '5 minutes')) }}) THEN
          RAISE EXCEPTION 'cdp: not everything was applied in time';
        END IF;
      END $$
    {%- else -%}
      SELECT cdp.apply()
    {%- endif -%}
  {%- endif -%}
{% endmacro %}

{# Make one definition what the model says; no rows when it is already. #}
{% macro cdp_apply(section, name, object) %}
  {% set config = {'version': 1, section: {name: object}} %}
  {% set rows = run_query("SELECT action, kind, name, profiles_changed FROM cdp.apply_config('"
      ~ (tojson(config) | replace("'", "''")) ~ "'::jsonb, dry_run => false)") %}
  {% for row in rows %}
    {% do log("cdp: " ~ row[0] ~ " " ~ row[1] ~ " " ~ row[2]
        ~ (" (" ~ row[3] ~ " profiles)" if row[3] is not none else ""), info=true) %}
  {% endfor %}
  {{ return(rows | length) }}
{% endmacro %}

{# The object of a model: those of its settings that it has #}
{% macro cdp_object(keys) %}
  {% set object = {} %}
  {% for key in keys if config.get(key) is not none %}
    {% do object.update({key: config.get(key)}) %}
  {% endfor %}
  {{ return(object) }}
{% endmacro %}

{# What every materialisation does around its own: a view to read, hooks, grants, documentation #}
{% macro cdp_view(select) %}
  {% set target_relation = this.incorporate(type='view') %}
  {% set existing = load_cached_relation(this) %}
  {% if existing is not none and existing.type != 'view' %}
    {% do adapter.drop_relation(existing) %}
  {% endif %}
  {% call statement('main') -%}
    create or replace view {{ target_relation }} as {{ select }}
  {%- endcall %}
  {% do apply_grants(target_relation, config.get('grants'), should_revoke=should_revoke(existing, full_refresh_mode=True)) %}
  {% do persist_docs(target_relation, model) %}
  {{ return(target_relation) }}
{% endmacro %}
